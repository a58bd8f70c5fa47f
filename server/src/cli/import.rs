//! `lumen import`: a file of documents into a collection, with progress.
//!
//! One request streams the file, so that its order is kept: of two lines with the same id the later one wins. The server
//! says as it goes which lines are decided; what is not is kept in memory, and when the server is busy for long the next
//! request goes on with it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::chunks::ChunkReader;
use super::client::{Client, Server, encode};
use super::infer::{self, SAMPLE_LINES};
use super::io_failure;
use super::report::Report;
use super::send::{self, Ended, request, take};
use super::transfer::Transfer;
use crate::error::{Failure, Kind, exit};

/// A server that is busy for longer than this, and decides nothing meanwhile, is given up.
const BUSY_TIME_MAX: Duration = Duration::from_secs(600);

/// `lumen import`
#[derive(Args)]
pub(crate) struct Import {
    /// Where to; made if it is not there
    collection: String,
    /// The file, one JSON object a line; - reads from the pipe
    file: PathBuf,
    /// The field that holds each document's id; documents without one get a new id
    #[arg(long, default_value = "id", value_name = "FIELD")]
    id_field: String,
    /// The mapping, as JSON; otherwise it is guessed from the first 1,000 lines and shown
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Print the guessed mapping and stop, to save and change it
    #[arg(long)]
    show_mapping: bool,
    /// Where rejected lines are listed [default: FILE.rejects.ndjson]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// Where documents come from.
pub(crate) struct Source {
    reader: ChunkReader,
    /// Its size, if that is known.
    bytes: Option<u64>,
}

impl Source {
    /// Documents in memory.
    pub(crate) fn memory(text: &'static [u8]) -> Source {
        Source { reader: ChunkReader::new(Box::new(text)), bytes: Some(text.len() as u64) }
    }

    fn open(path: &Path) -> Result<Source, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Source { reader: ChunkReader::new(Box::new(std::io::stdin())), bytes: None });
        }
        let failed = |error| io_failure(&path.display().to_string(), &error);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            let message = format!("{} is a folder; import reads one file", path.display());
            return Err(Failure::new(Kind::BadRequest, message));
        }
        let source: Box<dyn Read + Send> = Box::new(file);
        Ok(Source { reader: ChunkReader::new(source), bytes: metadata.is_file().then_some(metadata.len()) })
    }
}

/// How an import ended.
pub(crate) struct Loaded {
    /// The exit code that says so.
    pub(crate) code: u8,
}

impl Import {
    /// Imports.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let mut source = Source::open(&self.file)?;
        if self.show_mapping {
            let (mapping, _) = guess(&mut source, &self.id_field, &self.file)?;
            writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&mapping)?)?;
            return Ok(0);
        }
        let client = Client::new(&self.server.url)?;
        self.create(&client, &mut source).await?;
        let rejects = self.rejects.clone().unwrap_or_else(|| match self.file.as_os_str() == "-" {
            true => PathBuf::from("stdin.rejects.ndjson"),
            false => {
                let mut name = self.file.clone().into_os_string();
                name.push(".rejects.ndjson");
                PathBuf::from(name)
            }
        });
        let loaded = load(&client, &self.collection, &self.id_field, source, Some(&rejects)).await?;
        if matches!(loaded.code, 0 | exit::PARTIAL) {
            say!("  try:  lumen search {} 'your words'", self.collection);
        }
        Ok(loaded.code)
    }

    /// Makes the collection unless it is there.
    async fn create(&self, client: &Client, source: &mut Source) -> anyhow::Result<()> {
        let path = format!("/collections/{}", encode(&self.collection));
        let mapping = match &self.mapping {
            Some(file) => std::fs::read(file)
                .map(Bytes::from)
                .map_err(|error| io_failure(&file.display().to_string(), &error))?,
            None => {
                let answer = client.send(Method::GET, &path, Bytes::new()).await?;
                match answer.status {
                    200 => {
                        say!("collection {:?} is there; its mapping stays", self.collection);
                        return Ok(());
                    }
                    404 => {
                        let (mapping, table) = guess(source, &self.id_field, &self.file)?;
                        say!(
                            "the mapping, guessed from the first lines (--show-mapping prints it as JSON):\n{table}"
                        );
                        Bytes::from(mapping.to_string())
                    }
                    _ => return Err(answer.failure().into()),
                }
            }
        };
        client.expect(Method::PUT, &path, mapping).await?;
        Ok(())
    }
}

/// A mapping guessed from the source's first lines, and the table that shows it.
fn guess(source: &mut Source, id_field: &str, file: &Path) -> Result<(Value, String), Failure> {
    let name = file.display().to_string();
    let lines = source.reader.sample(SAMPLE_LINES).map_err(|error| io_failure(&name, &error))?;
    let fields = infer::infer(&lines, id_field);
    let mapping = infer::mapping(&fields);
    if mapping["fields"].as_object().is_none_or(serde_json::Map::is_empty) {
        let message =
            format!("{name}: its first lines have no field to guess a mapping from; one JSON object a line?");
        return Err(Failure::new(Kind::Validation, message));
    }
    Ok((mapping, infer::table(&fields, lines.len())))
}

/// Sends a source to a collection that is there, and says on stderr how it went.
pub(crate) async fn load(
    client: &Client,
    collection: &str,
    id_field: &str,
    source: Source,
    rejects: Option<&Path>,
) -> anyhow::Result<Loaded> {
    let id_field = encode(id_field);
    let path = format!("/collections/{}/import?id_field={id_field}&progress=true", encode(collection));
    let mut report = Report::new(source.bytes, rejects.map(Path::to_path_buf));
    let mut transfer = Transfer::default();
    let ended = send_all(client, &path, read_ahead(source.reader), &mut transfer, &mut report).await;
    report.end(&transfer, &ended);
    let code = match (ended?, report.rejected) {
        (true, _) => exit::INTERRUPTED,
        (false, 0) => 0,
        (false, _) => exit::PARTIAL,
    };
    Ok(Loaded { code })
}

/// Request by request until all is decided; whether it was interrupted.
async fn send_all(
    client: &Client,
    path: &str,
    mut source: send::Source,
    transfer: &mut Transfer,
    report: &mut Report,
) -> Result<bool, Failure> {
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| io_failure("waiting for Ctrl-C", &error))?;
    let mut moved = (0, Instant::now());
    loop {
        if transfer.is_done() {
            tokio::select! {
                _ = interrupt.recv() => return Ok(true),
                next = source.recv() => match next {
                    None => return Ok(false),
                    Some(chunk) => take(chunk, transfer, report)?,
                },
            }
        }
        let ended = request(client, path, transfer, &mut source, &mut interrupt, report).await?;
        let Ended { stopped, source_ended, interrupted } = ended;
        if interrupted || (source_ended && stopped.is_none()) {
            return Ok(interrupted);
        }
        let Some(failure) = stopped else { continue };
        client.moves_on(&failure);
        if transfer.through_line() > moved.0 {
            moved = (transfer.through_line(), Instant::now());
        }
        // A pause that the server found too long says nothing of when to come again; anything else that may pass does.
        let worth = failure.retry_after.is_some() || failure.kind == Kind::Timeout;
        if !worth || moved.1.elapsed() > BUSY_TIME_MAX {
            return Err(failure);
        }
        tokio::select! {
            _ = interrupt.recv() => return Ok(true),
            () = tokio::time::sleep(failure.retry_after.unwrap_or_default()) => {}
        }
    }
}

/// Reads and cuts on a thread of its own, one chunk ahead of what is being sent.
fn read_ahead(mut reader: ChunkReader) -> send::Source {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        // Nobody receives any more when the import stopped.
        while let Some(next) = reader.next().transpose() {
            let is_last = next.is_err();
            if sender.blocking_send(next).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}
