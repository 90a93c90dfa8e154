//! The recent transitions, for `link-watcher events`.
