//! Words of `proteus personality`. Must never judge a label: the API does.

use clap::Subcommand;

/// Labels.
#[derive(Debug, Subcommand)]
pub enum Personality {
    /// All labels that VMs are known by.
    Labels,
    /// Learn a label from a VM as it is now: what it did in the last two minutes is what such a VM does.
    Teach {
        /// Which.
        vm: String,
        /// The label, as in `file server`: lower-case letters and digits, in words.
        label: String,
        /// Only say whether it could be learned.
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget what was taught of a label; what ships with Proteus stays.
    Forget {
        /// The label.
        label: String,
        /// Only say what would be forgotten.
        #[arg(long)]
        dry_run: bool,
    },
}
