//! stub
#[derive(Debug, clap::Args)]
/// x
pub struct LogsArgs {}
/// x
pub fn logs(_: &LogsArgs, _: &std::path::Path) -> anyhow::Result<()> {
    Ok(())
}
