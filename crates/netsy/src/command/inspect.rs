//! `netsy inspect`: prints any of netsy's files.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use netsy_objects::inspect::{InspectFormat, inspect};
use netsy_objects::{Provider, StorageConfig};
use std::io::Write;

#[derive(Args)]
pub struct InspectArgs {
    /// A path, or an object URL: s3://bucket/key, gs://bucket/key, file:///path.
    file: String,
    /// One JSON object a line instead of text.
    #[arg(long)]
    json: bool,
}

/// A file larger than this is refused rather than read into memory.
const FILE_BYTES_MAX: u64 = 4 << 30;

pub fn run(args: InspectArgs) -> anyhow::Result<()> {
    let bytes = match args.file.split_once("://") {
        None => read_path(&args.file)?,
        Some(("file", path)) => read_path(path)?,
        Some((scheme, rest)) => read_object(&args.file, scheme, rest)?,
    };
    let format = if args.json { InspectFormat::JsonLines } else { InspectFormat::Text };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let found = inspect(&args.file, &bytes.into(), format, &mut out).and_then(|found| out.flush().map(|()| found));
    match found {
        Ok(found) if found.faults.is_empty() => Ok(()),
        Ok(found) => bail!("{} ({}) is not sound: {}", args.file, found.kind, found.faults.join("; ")),
        // Whoever read the output has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(e).context("writing the output"),
    }
}

fn read_path(path: &str) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(path).with_context(|| format!("{path}: give a file or an object URL"))?.len();
    if size > FILE_BYTES_MAX {
        bail!("{path} has {size} bytes: none of netsy's files is that large");
    }
    std::fs::read(path).with_context(|| path.to_string())
}

fn read_object(url: &str, scheme: &str, rest: &str) -> anyhow::Result<Vec<u8>> {
    let provider = match scheme {
        "s3" => Provider::S3,
        "gs" => Provider::Gcs,
        _ => bail!("{url}: {scheme:?} is none of s3, gs, file"),
    };
    let (bucket, key) = rest
        .split_once('/')
        .filter(|(b, k)| !b.is_empty() && !k.is_empty())
        .ok_or_else(|| anyhow!("{url}: write {scheme}://bucket/key"))?;
    // A store's address, credentials and leave to go without TLS come from the provider's usual environment.
    let mut storage = StorageConfig::new(provider);
    storage.bucket = bucket.to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let buckets = netsy_objects::open(&storage).await?;
        let object = buckets.data.get(key).await?;
        object.map(|o| o.bytes.to_vec()).ok_or_else(|| anyhow!("{url}: there is no such object"))
    })
}
