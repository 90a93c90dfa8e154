//! Files with a secret of somebody else's, such as a password: one line of text, for root's eyes only.

use std::{
    env,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{Severity, section::Section};
use crate::keys::{self, KeyError, KeyProblem};

/// What stands before the name of a systemd credential.
const CREDENTIAL: &str = "credential:";
/// Where systemd puts the credentials of a service (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Where a secret is. It is read when it is needed and not kept, so that a new one takes no reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFile {
    /// A file.
    Path(PathBuf),
    /// A credential of this service, by its name.
    Credential(String),
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is wrong.
    #[error("secret file {} {}", .0.path.display(), .0.problem)]
    File(#[source] KeyError),
    /// It is not text.
    #[error("secret file {} is not UTF-8", .0.display())]
    NotText(PathBuf),
    /// Nobody gives this process credentials.
    #[error("there is no credential {0}: this process has no credentials from systemd")]
    NoCredentials(String),
}

impl SecretError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::File(error) => match error.problem {
                KeyProblem::Missing => {
                    format!("write the secret to {0}, one line, then: chmod 600 {0}", error.path.display())
                }
                KeyProblem::Open(_) | KeyProblem::Owner(_) | KeyProblem::Untrusted(_) | KeyProblem::Denied => {
                    error.remedy()
                }
                _ => "name a file with the secret as its only line".to_owned(),
            },
            Self::NotText(_) => "name a file with the secret as its only line".to_owned(),
            Self::NoCredentials(name) => format!("the unit of the service wants LoadCredential={name}:PATH"),
        }
    }

    fn needs_privilege(&self) -> bool {
        matches!(self, Self::File(error) if matches!(error.problem, KeyProblem::Denied))
    }
}

impl SecretFile {
    /// The secret that a key names. Where it cannot be read now that is as bad as `absent` says.
    pub(super) fn of(section: &Section<'_>, key: &str, directory: &Path, absent: Severity) -> Option<Self> {
        let text = section.string(key, "\"/etc/link-watcher/smtp.password\"")?;
        let secret = match text.get_ref().strip_prefix(CREDENTIAL) {
            Some(name) if name.is_empty() || name.contains('/') => {
                let help = "write \"credential:NAME\", with the NAME of LoadCredential= in the unit";
                section.findings.error(&text.span(), format!("`{key}` has no name of a credential"), help);
                return None;
            }
            Some(name) => Self::Credential(name.to_owned()),
            None => Self::Path(directory.join(text.get_ref())),
        };
        match secret.read() {
            // Only the service itself has them.
            Ok(_) | Err(SecretError::NoCredentials(_)) => {}
            Err(error) => {
                let (message, help) = (error.to_string(), error.remedy());
                section.findings.add(absent, &text.span(), message, help, error.needs_privilege());
            }
        }
        Some(secret)
    }

    /// The secret, without the end of its line.
    ///
    /// # Errors
    ///
    /// Where there is none, where others can read it or put another in its place, and where it is not one line of text.
    pub fn read(&self) -> Result<Zeroizing<String>, SecretError> {
        let path = match self {
            Self::Path(path) => path.clone(),
            Self::Credential(name) => match env::var_os(CREDENTIALS_DIRECTORY) {
                Some(directory) => PathBuf::from(directory).join(name),
                None => return Err(SecretError::NoCredentials(name.clone())),
            },
        };
        let wrong = |problem| SecretError::File(KeyError { path: path.clone(), problem });
        let bytes = keys::read_private(&path).map_err(wrong)?;
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(wrong(KeyProblem::Empty));
        }
        if line.contains(&b'\n') {
            return Err(wrong(KeyProblem::Lines));
        }
        let text = std::str::from_utf8(line).map_err(|_| SecretError::NotText(path.clone()))?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}
