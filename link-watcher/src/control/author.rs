//! Who orders something, and why.

use nix::unistd::{Uid, User};

/// Longest reason, characters.
pub const MAX_REASON_LEN: usize = 200;
/// Longest name that a client may claim, bytes: `LOGIN_NAME_MAX` allows 256, useradd(8) 32.
const MAX_USER_LEN: usize = 32;

/// Who orders something, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// The user whose process it was, as the kernel says; in brackets who he says that he is.
    pub by: String,
    /// Why, in one line.
    pub reason: Option<String>,
}

impl Author {
    /// The user with this number. What the client says of itself is a hint: it is shown as such, and left out where it
    /// cannot be a name.
    ///
    /// # Errors
    ///
    /// Where the reason is too long.
    pub(super) fn new(user: String, sudo_user: Option<String>, reason: Option<String>) -> Result<Self, String> {
        let reason = reason.map(|reason| {
            let plain: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            plain.trim().to_owned()
        });
        if reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON_LEN) {
            return Err(format!("a reason has at most {MAX_REASON_LEN} characters"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '\\');
        let is_name = |name: &String| {
            !name.is_empty() && name.len() <= MAX_USER_LEN && name.chars().all(allowed) && *name != user
        };
        let by = match sudo_user.filter(is_name) {
            Some(behind) => format!("{user} ({behind} by sudo)"),
            None => user,
        };
        Ok(Self { by, reason: reason.filter(|reason| !reason.is_empty()) })
    }
}

/// A user's name; where nobody knows it, his number. Looking it up may ask a server: not for a thread that has to go on.
pub(super) async fn user_name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let look_up = move || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    let known = tokio::task::spawn_blocking(look_up).await.ok().flatten();
    known.unwrap_or_else(|| format!("user {uid}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn author(sudo_user: &str, reason: &str) -> Result<Author, String> {
        Author::new("root".to_owned(), Some(sudo_user.to_owned()), Some(reason.to_owned()))
    }

    #[test]
    fn what_a_client_says_of_itself_is_a_hint() {
        assert_eq!(author("anna", "").unwrap().by, "root (anna by sudo)");
        for unlikely in ["", "root", "a b", "a\u{1b}[31m", "anna)\nroot", &"x".repeat(33), "ä"] {
            assert_eq!(author(unlikely, "").unwrap().by, "root", "{unlikely:?}");
        }
    }

    #[test]
    fn a_reason_is_one_line_and_has_an_end() {
        let reason = |text: &str| author("", text).map(|author| author.reason);
        assert_eq!(reason(" splicing\n\u{1b}[31mat noon ").unwrap().unwrap(), "splicing  [31mat noon");
        assert_eq!(reason(" \t").unwrap(), None);
        assert_eq!(reason(&"ä".repeat(200)).unwrap().unwrap().chars().count(), 200);
        assert_eq!(reason(&"x".repeat(201)).unwrap_err(), "a reason has at most 200 characters");
    }

    #[tokio::test]
    async fn users_have_names() {
        assert_eq!(user_name(0).await, "root");
        assert_eq!(user_name(4_000_000_000).await, "user 4000000000");
    }
}
