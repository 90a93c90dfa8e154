//! What the daemon is made of, for those who must know whether a dependency with a fault is in it: CycloneDX 1.5, JSON.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::VERSION;
use crate::project::Project;
use crate::tools::CYCLONEDX;
use crate::{dist, exec};

/// The tool writes into each crate's directory; under a name that nobody else has.
const DRAFT: &str = "link-watcher-sbom-draft";

/// Writes the list of the daemon's dependencies, those of its build included, with versions, licences and hashes; returns its path.
///
/// # Errors
///
/// Where the tool cannot be had or fails.
pub(crate) fn sbom(project: &Project, epoch: u64) -> Result<PathBuf> {
    let mut command = CYCLONEDX.command(project)?;
    command.args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--quiet"]);
    command.args(["--manifest-path", "link-watcher/Cargo.toml", "--override-filename", DRAFT]);
    command.env("SOURCE_DATE_EPOCH", epoch.to_string());
    let made = exec::run(&mut command, "its message above says why");
    let drafts = drafts(project)?;
    let wanted = project.root.join("link-watcher").join(DRAFT).with_extension("json");
    let text = fs::read_to_string(&wanted).with_context(|| format!("{} was not written", wanted.display()));
    for draft in drafts {
        fs::remove_file(&draft).with_context(|| format!("{} is left over", draft.display()))?;
    }
    made?;
    // Paths of crates of this workspace are the only thing that tells where it was built.
    let text = text?.replace(&project.root.display().to_string(), "/link-watcher");
    dist::write(project, &format!("link-watcher-{VERSION}.cdx.json"), text.as_bytes())
}

/// Those that the tool has written, one beside each Cargo.toml of the workspace.
fn drafts(project: &Project) -> Result<Vec<PathBuf>> {
    let manifests = exec::output(project.cargo().args(["metadata", "--no-deps", "--format-version", "1"]));
    let manifests = manifests.context("cargo does not tell which crates the workspace has")?;
    let paths = manifests.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let drafts = paths.map(|path| PathBuf::from(path).with_file_name(DRAFT).with_extension("json"));
    Ok(drafts.filter(|path| path.exists()).collect())
}
