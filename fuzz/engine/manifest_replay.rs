//! A manifest that says anything, under right checksums: the store opens and works, or the manifest is refused.

use std::sync::OnceLock;

use arbitrary::Arbitrary;
use lumen_engine::attachment::AttachmentEdit;
use lumen_engine::log::Kind;
use lumen_engine::vfs::memory::Memory;
use lumen_engine::{Batch, Durability, Engine, Error, Options, inspect};

use super::forge::{self, Field, Rows};

/// What is appended to the manifest, or makes a new one, and what is then wrong with its bytes.
#[derive(Debug, Arbitrary)]
pub struct Input {
    fresh: bool,
    records: Vec<(RecordKind, Payload)>,
    /// Place, new byte.
    bytes: Vec<(u16, u8)>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum RecordKind {
    Edit,
    Snapshot,
    Batch,
}

#[derive(Debug, Arbitrary)]
enum Payload {
    /// Fields with any values.
    Fields(Vec<Field>),
    /// An edit that the engine wrote, with other bytes in some places.
    Written {
        which: u8,
        bytes: Vec<(u8, u8)>,
    },
    Raw(Vec<u8>),
}

/// A store of a few tables, a blob file, a range delete and an attachment, and what it holds.
struct Base {
    vfs: Memory,
    payloads: Vec<Vec<u8>>,
    rows: Rows,
}

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| make().expect("nothing fails"))
}

fn make() -> Result<Base, Error> {
    let vfs = Memory::new();
    let options = Options { blob_bytes: 100, ..forge::options(&vfs) };
    let engine = Engine::open(forge::DIR, options)?;
    for round in 0..3u8 {
        let mut batch = Batch::new();
        (0..20u8).for_each(|n| batch.put(&[b'k', n * 3 + round], &vec![round; 5 * usize::from(n) + 15]));
        engine.write(&batch, Durability::Sync)?;
        if round == 1 {
            engine.settle()?;
        }
        engine.flush()?;
    }
    let mut batch = Batch::new();
    batch.delete_range(&[b'k', 10], &[b'k', 20]);
    engine.write(&batch, Durability::Sync)?;
    engine.flush()?;
    let attachment = engine.attachments().create()?.finish(1, b"note".to_vec())?;
    let state = Some(b"state".to_vec());
    engine.attachments().install(AttachmentEdit { attach: vec![attachment], detach: Vec::new(), state })?;
    let rows = forge::rows(&engine.snapshot())?;
    engine.close()?;
    drop(engine);
    let payloads = forge::manifest_payloads(&vfs);
    Ok(Base { vfs, payloads, rows })
}

fn payload(payload: &Payload) -> Vec<u8> {
    let mut out = Vec::new();
    match payload {
        Payload::Fields(fields) => fields.iter().for_each(|field| field.encode(&mut out)),
        Payload::Written { which, bytes } => {
            let written = &base().payloads;
            out = written[usize::from(*which) % written.len()].clone();
            let len = out.len();
            bytes.iter().for_each(|(at, byte)| out[usize::from(*at) % len] = *byte);
        }
        Payload::Raw(bytes) => out.clone_from(bytes),
    }
    out
}

/// Opens a store with this manifest, reads all of it and writes to it.
pub fn run(input: &Input) {
    let vfs = base().vfs.fork();
    if input.fresh {
        for (path, _) in forge::files(&vfs, "manifest") {
            lumen_engine::vfs::Vfs::remove(&vfs, &path).expect("nothing fails");
        }
    }
    let records = input.records.iter().map(|(kind, written)| {
        let kind = match kind {
            RecordKind::Edit => Kind::Edit,
            RecordKind::Snapshot => Kind::Snapshot,
            RecordKind::Batch => Kind::Batch,
        };
        (kind, payload(written))
    });
    forge::append_to_manifest(&vfs, records);
    let (path, mut segment) = forge::files(&vfs, "manifest").pop().expect("a segment");
    let number = forge::u64_at(&segment, 16);
    let previous = (forge::u64_at(&segment, 48), forge::u32_at(&segment, 56));
    let len = segment.len();
    input.bytes.iter().for_each(|(at, byte)| segment[usize::from(*at) % len] = *byte);
    forge::seal_segment(&mut segment, number, previous);
    inspect::log_segment("m", &segment, &mut std::io::sink(), &|_| String::new()).expect("a sink takes all");
    vfs.damage(&path, |bytes| *bytes = segment);
    let is_damaged = input.fresh || !input.records.is_empty() || !input.bytes.is_empty();
    match forge::open(&vfs) {
        Ok(engine) => {
            if !is_damaged {
                assert_eq!(forge::rows(&engine.snapshot()).expect("undamaged"), base().rows);
            }
            works(&vfs, engine);
        }
        Err(error) => assert!(is_damaged, "an undamaged manifest: {error}"),
    }
}

/// Whatever the tables turn out to be, what is written now is there, or an error says why not.
fn works(vfs: &Memory, engine: Engine) {
    let found = |engine: &Engine| engine.get(b"kept").map(|value| value.map(|value| value.to_vec()));
    let kept = |engine: &Engine| match found(engine) {
        Ok(value) => assert_eq!(value.as_deref(), Some(&b"value"[..])),
        Err(Error::Corrupt { .. }) => {}
        Err(other) => panic!("{other}"),
    };
    let _ = engine.verify(&mut |_, _| true).expect("no background has failed");
    let _ = forge::rows(&engine.snapshot());
    for attachment in engine.attachments().list() {
        let _ = engine.attachments().map(attachment.number);
    }
    assert!(!engine.shape().is_empty());
    let mut batch = Batch::new();
    batch.put(b"kept", b"value");
    if engine.write(&batch, Durability::Sync).is_err() {
        return;
    }
    kept(&engine);
    if engine.settle().is_ok() {
        kept(&engine);
        engine.close().expect("nothing is left to do");
    }
    drop(engine);
    if let Ok(engine) = forge::open(vfs) {
        kept(&engine);
    }
}
