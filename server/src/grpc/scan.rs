//! `Scan`: a page when the client takes one, all of one moment.

use std::ops::Bound;

use futures_util::stream::{BoxStream, StreamExt, unfold};
use lumen::{KeyRange, KeyRow, Snapshot};
use tonic::Status;

use super::Face;
use super::kv::{range, space};
use super::proto::kv::{Pair, ScanRequest, ScanResponse};
use crate::api::blocking;
use crate::error::Failure;

/// Bytes of a page unless the request says, and at most.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Rows of a page, at most: keys may be short.
const PAGE_ROWS: usize = 16 << 10;

/// A scan on its way.
struct Scan {
    snapshot: Snapshot,
    space: String,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    reverse: bool,
    keys_only: bool,
    count_only: bool,
    page_bytes: usize,
    /// Pairs that may still come.
    left: u64,
    count: u64,
    /// The last key that was met.
    last: Option<Vec<u8>>,
}

pub(super) async fn scan(
    face: &Face,
    request: ScanRequest,
) -> Result<BoxStream<'static, Result<ScanResponse, Status>>, Failure> {
    let reading = face.level(request.level, request.min_seq)?;
    let (start, end) = range(request.start.into(), request.end.into(), request.prefix.into())?;
    let snapshot = face.node.store.read(&reading).await?;
    let state = Scan {
        snapshot,
        space: space(request.space),
        start,
        end,
        reverse: request.reverse,
        keys_only: request.keys_only,
        count_only: request.count_only,
        page_bytes: match request.max_bytes {
            0 => PAGE_BYTES,
            bytes => (bytes as usize).min(PAGE_BYTES_MAX),
        },
        left: if request.limit == 0 { u64::MAX } else { u64::from(request.limit) },
        count: 0,
        last: (!request.cursor.is_empty()).then(|| request.cursor.into()),
    };
    Ok(unfold(Some(state), |state| async {
        let state = state?;
        match blocking(move || state.page()).await {
            Ok((page, next)) => Some((Ok(page), next)),
            Err(failure) => Some((Err(failure.into()), None)),
        }
    })
    .boxed())
}

impl Scan {
    /// The next page, and what comes after it.
    fn page(mut self) -> Result<(ScanResponse, Option<Scan>), Failure> {
        let end = self.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (start, end) = match &self.last {
            None => (Bound::Included(&self.start[..]), end),
            Some(last) if self.reverse => (Bound::Included(&self.start[..]), Bound::Excluded(&last[..])),
            Some(last) => (Bound::Excluded(&last[..]), end),
        };
        let range = KeyRange { start, end, reverse: self.reverse };
        let (mut pairs, mut bytes, mut rows, mut last) = (Vec::new(), 0, 0, None);
        let (mut left, mut is_full) = (self.left, self.left == 0);
        let mut row = |row: KeyRow<'_>| {
            rows += 1;
            left -= 1;
            if !self.count_only {
                bytes += row.key.len() + if self.keys_only { 0 } else { row.value.len() };
                pairs.push(Pair {
                    key: row.key.to_vec().into(),
                    value: if self.keys_only { Default::default() } else { row.value.to_vec().into() },
                    version: row.version,
                    expires_at_ms: row.expires.unwrap_or(0),
                    lease: row.lease.unwrap_or(0) as i64,
                });
            }
            let rows_max = if self.count_only { usize::MAX } else { PAGE_ROWS };
            is_full = bytes >= self.page_bytes || rows == rows_max || left == 0;
            if is_full {
                last = Some(row.key.to_vec());
            }
            !is_full
        };
        self.snapshot.scan_keys(&self.space, &range, &mut row)?;
        self.count += rows as u64;
        let page = ScanResponse {
            pairs,
            cursor: last.clone().unwrap_or_default().into(),
            seq: self.snapshot.seq(),
            count: self.count,
        };
        let goes_on = is_full && left > 0;
        (self.left, self.last) = (left, last);
        Ok((page, goes_on.then_some(self)))
    }
}
