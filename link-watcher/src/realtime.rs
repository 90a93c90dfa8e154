//! Real-time scheduling: so that a busy router does not look like a dead one.

use std::sync::Once;

use rustix::mm::{MlockAllFlags, mlockall};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tracing::warn;

/// Puts the calling thread under `SCHED_FIFO` with a priority of 1 to 99 (sched(7)), and locks this process's memory
/// as it is touched. Where the privilege is missing it says so, and goes on without.
pub fn raise(priority: u8) {
    static LOCK: Once = Once::new();
    LOCK.call_once(|| {
        // Only what is touched: locking whole stacks would cost megabytes for nothing.
        let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        if let Err(error) = mlockall(flags) {
            warn!("memory is not locked ({error}): CAP_IPC_LOCK or a higher LimitMEMLOCK is missing; under memory pressure detection may be late");
        }
    });
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let result = ThreadPriorityValue::try_from(priority).map_err(|error| error.to_owned()).and_then(|value| {
        set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy)
            .map_err(|error| format!("{error:?}"))
    });
    if let Err(error) = result {
        warn!(
            "no real-time scheduling ({error}): CAP_SYS_NICE is missing; under load detection may be late, never wrong"
        );
    }
}

/// Puts the calling thread, and all that it starts from now on, under normal scheduling: a thread begins with its maker's.
pub fn lower() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
        warn!("a thread stays under its maker's scheduling: {error:?}");
    }
}
