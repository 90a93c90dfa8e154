//! The one place that reads clocks.

use std::time::SystemTime;

/// Nanoseconds of `CLOCK_MONOTONIC`: what the kernel program's `bpf_ktime_get_ns` reads too.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Since boot, so never negative, and nanoseconds are below a billion.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// The wall-clock time of a monotonic instant, as of now: right also after the wall clock was set.
pub fn wall_time(at_ns: u64) -> SystemTime {
    let (wall, now_ns) = (SystemTime::now(), now_ns());
    let apart = std::time::Duration::from_nanos(now_ns.abs_diff(at_ns));
    let then = if at_ns > now_ns { wall.checked_add(apart) } else { wall.checked_sub(apart) };
    then.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The wall-clock time of a monotonic instant in seconds since 1970, as of now.
pub fn unix_seconds(at_ns: u64) -> f64 {
    wall_time(at_ns).duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The wall clock, ms since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC with milliseconds, as the status and the events print it.
pub fn rfc3339(at_ns: u64) -> String {
    humantime::format_rfc3339_millis(wall_time(at_ns)).to_string()
}

/// How far [`now_ns`] is from what the kernel program reads, in whole seconds: they differ in a time namespace that says so
/// (time_namespaces(7)). Nothing where they are one.
pub fn apart_from_kernel() -> Option<i64> {
    apart(&std::fs::read_to_string("/proc/self/timens_offsets").ok()?)
}

fn apart(offsets: &str) -> Option<i64> {
    let monotonic = offsets.lines().find(|line| line.starts_with("monotonic"))?;
    let mut numbers = monotonic.split_whitespace().skip(1).filter_map(|number| number.parse::<i64>().ok());
    let (seconds, nanoseconds) = (numbers.next()?, numbers.next()?);
    (seconds != 0 || nanoseconds != 0).then_some(seconds)
}

/// A duration in nanoseconds. Configured ones are days at most, so that it never saturates.
pub fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_of_its_own_is_noticed() {
        let offsets = |seconds, nanoseconds| {
            format!("monotonic  {seconds:>10} {nanoseconds:>9}\nboottime            7         0\n")
        };
        assert_eq!(apart(&offsets(0, 0)), None);
        assert_eq!(apart(&offsets(5, 0)), Some(5));
        assert_eq!(apart(&offsets(0, 5)), Some(0));
        assert_eq!(apart(&offsets(-3, 0)), Some(-3));
        assert_eq!(apart(""), None);
    }

    #[test]
    fn instants_of_both_sides_are_told() {
        let now_ns = now_ns();
        let (before, after) = (unix_seconds(now_ns - 2_000_000_000), unix_seconds(now_ns + 2_000_000_000));
        assert!((after - before - 4.0).abs() < 1.0, "{before} {after}");
    }
}
