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

/// RFC 3339 in UTC with milliseconds, as the status and the events print it.
pub fn rfc3339(at_ns: u64) -> String {
    humantime::format_rfc3339_millis(wall_time(at_ns)).to_string()
}
