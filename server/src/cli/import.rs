//! `lumen import`: a file of documents into a collection, with progress, in requests that can be sent again.
//!
//! A reader thread cuts the file into requests of a few megabytes, sent one after the other, so that of two lines with the
//! same id the later one wins. The next request is read and cut while one is under way, and the server keeps several
//! batches of a request in flight by itself.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::chunks::{ChunkReader, Next};
use super::client::{Client, Server, encode};
use super::infer::{self, SAMPLE_LINES};
use super::io_failure;
use super::progress::Progress;
use super::send::{Sent, send};
use crate::error::{Failure, Kind, exit};

/// Requests under way. One, so that of two lines with the same id the later one wins; the next is read and cut meanwhile,
/// and the server keeps several batches of one request in flight by itself.
const REQUESTS_IN_FLIGHT: usize = 1;

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
            println!("{}", serde_json::to_string_pretty(&mapping)?);
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
            eprintln!("  try:  lumen search {} 'your words'", self.collection);
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
                        eprintln!("collection {:?} is there; its mapping stays", self.collection);
                        return Ok(());
                    }
                    404 => {
                        let (mapping, table) = guess(source, &self.id_field, &self.file)?;
                        eprintln!(
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
    let path = format!("/collections/{}/import?id_field={}", encode(collection), encode(id_field));
    let mut totals = Totals::new(source.bytes, rejects.map(Path::to_path_buf));
    let mut interrupted = false;
    let mut chunks = read_ahead(source.reader);
    let mut running: VecDeque<JoinHandle<Sent>> = VecDeque::new();
    let (stop, _) = watch::channel(false);
    let mut failure = None;
    while failure.is_none() && !interrupted {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                interrupted = true;
                let _ = stop.send(true);
            }
            Some(sent) = oldest(&mut running), if !running.is_empty() => failure = totals.add(sent)?,
            next = chunks.recv(), if running.len() < REQUESTS_IN_FLIGHT => match next {
                None | Some(Ok(Next::End)) => break,
                Some(Ok(Next::TooLong { line })) => totals.reject_too_long(line)?,
                Some(Ok(Next::Chunk(chunk))) => {
                    let work = send(client.clone(), path.clone(), chunk, stop.subscribe());
                    running.push_back(tokio::spawn(work));
                }
                Some(Err(error)) => failure = Some(io_failure("reading", &error)),
            },
        }
    }
    while !running.is_empty() {
        tokio::select! {
            biased;
            // A second Ctrl-C does not wait for the answers either.
            _ = tokio::signal::ctrl_c(), if interrupted => break,
            Some(sent) = oldest(&mut running) => {
                let failed = totals.add(sent)?;
                failure = failure.or(failed);
            }
        }
    }
    totals.report(interrupted);
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let code = match (interrupted, totals.rejected) {
        (true, _) => exit::INTERRUPTED,
        (false, 0) => 0,
        (false, _) => exit::PARTIAL,
    };
    Ok(Loaded { code })
}

/// The answer to the request that was sent first; none when no request is under way.
async fn oldest(running: &mut VecDeque<JoinHandle<Sent>>) -> Option<Sent> {
    let joined = running.front_mut()?.await;
    running.pop_front();
    Some(joined.unwrap_or_else(|error| Sent::broken(Failure::new(Kind::Internal, error.to_string()))))
}

/// Reads and cuts on a thread of its own, one request ahead of what is being sent.
fn read_ahead(mut reader: ChunkReader) -> mpsc::Receiver<std::io::Result<Next>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        loop {
            let next = reader.next();
            let is_last = !matches!(next, Ok(Next::Chunk(_) | Next::TooLong { .. }));
            // Nobody receives any more when the import stopped.
            if sender.blocking_send(next).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// What was done so far.
struct Totals {
    progress: Progress,
    bytes: u64,
    created: u64,
    updated: u64,
    rejected: u64,
    seq: u64,
    /// Every line up to this one was answered.
    through_line: u64,
    rejects_path: Option<PathBuf>,
    rejects: Option<File>,
}

impl Totals {
    fn new(total: Option<u64>, rejects_path: Option<PathBuf>) -> Totals {
        Totals {
            progress: Progress::new(total),
            bytes: 0,
            created: 0,
            updated: 0,
            rejected: 0,
            seq: 0,
            through_line: 0,
            rejects_path,
            rejects: None,
        }
    }

    /// Counts an answer; gives back why it is not a whole one.
    fn add(&mut self, sent: Sent) -> Result<Option<Failure>, Failure> {
        self.created += sent.created;
        self.updated += sent.updated;
        self.seq = self.seq.max(sent.seq);
        for line in &sent.rejects {
            self.reject(line)?;
        }
        self.rejected += sent.unlisted;
        self.through_line = self.through_line.max(sent.through_line);
        if sent.failure.is_none() {
            self.bytes = self.bytes.max(sent.end);
        }
        self.progress.done(self.bytes, self.created + self.updated, self.rejected);
        Ok(sent.failure)
    }

    fn reject_too_long(&mut self, line: u64) -> Result<(), Failure> {
        let failure = Failure::too_large("the line", 16 << 20);
        self.reject(&json!({ "line": line, "error": failure.to_json(None) }).to_string())
    }

    /// Lists a rejected line in the file, which is made when there is a first one.
    fn reject(&mut self, line: &str) -> Result<(), Failure> {
        self.rejected += 1;
        let Some(path) = &self.rejects_path else { return Ok(()) };
        let failed = |error| io_failure(&path.display().to_string(), &error);
        if self.rejects.is_none() {
            self.rejects = Some(File::create(path).map_err(failed)?);
        }
        match &mut self.rejects {
            Some(file) => writeln!(file, "{line}").map_err(failed),
            None => Ok(()),
        }
    }

    fn report(&self, interrupted: bool) {
        let how = self.progress.finish();
        match interrupted {
            true => eprintln!("stopped: {how}; the lines up to {} are answered", self.through_line),
            false => eprintln!("imported {how}; all of them are searchable now"),
        }
        if let (Some(path), true) = (&self.rejects_path, self.rejected > 0) {
            eprintln!("{} lines were rejected; which and why: {}", self.rejected, path.display());
        }
        if !std::io::stdout().is_terminal() && self.rejects_path.is_some() {
            let summary = json!({
                "created": self.created,
                "updated": self.updated,
                "rejected": self.rejected,
                "through_line": self.through_line,
                "seq": self.seq,
            });
            println!("{summary}");
        }
    }
}
