//! Errors for people: one line, and what ends the program with an exit code of its own.

use std::error::Error;

/// A privilege is missing; says which, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MissingPrivilege(pub String);

/// An error with its causes, in one line. A cause that an error's own text ends with is not said twice.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("the file is not to be had")]
        Silent(#[source] io::Error),
        #[error("the file is not to be had: {0}")]
        Telling(#[source] io::Error),
    }

    #[test]
    fn causes_follow_and_none_is_said_twice() {
        let cause = || io::Error::other("the disk is on fire");
        for error in [Outer::Silent(cause()), Outer::Telling(cause())] {
            assert_eq!(chain(&error), "the file is not to be had: the disk is on fire");
        }
        let wrapped = anyhow::Error::from(Outer::Telling(cause())).context("no start");
        assert_eq!(chain(wrapped.as_ref()), "no start: the file is not to be had: the disk is on fire");
    }
}
