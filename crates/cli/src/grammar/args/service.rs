//! `daemon install-service`, `daemon uninstall-service`: their flags (CLI spec §3.18, §6.2).

use clap::Args;

/// `daemon install-service`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstallServiceArgs {
    /// For this user (the default)
    #[arg(long, conflicts_with = "system")]
    pub(crate) user: bool,
    /// For the whole system, started without a login; needs root
    #[arg(long)]
    pub(crate) system: bool,
    /// Also where an automated build is running
    #[arg(long)]
    pub(crate) allow_ci_persistent: bool,
    /// Ignored: one daemon serves every mesh
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) name: Option<String>,
}
