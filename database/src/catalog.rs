//! Which collections exist, and what each indexes.

use std::collections::BTreeMap;
use std::sync::Arc;

use lumen_index::Schema;

use crate::error::Rejection;
use crate::mapping::Mapping;

/// One collection. Its id is never used again after it was dropped.
#[derive(Debug)]
pub(crate) struct Collection {
    pub id: u32,
    pub name: String,
    pub mapping: Mapping,
    pub schema: Arc<Schema>,
}

/// All collections by name. Immutable; a change makes a new one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    by_name: BTreeMap<String, Arc<Collection>>,
}

impl Catalog {
    pub(crate) fn get(&self, name: &str) -> Result<&Arc<Collection>, Rejection> {
        self.by_name.get(name).ok_or_else(|| Rejection::CollectionNotFound { name: name.to_owned() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Collection>> {
        self.by_name.values()
    }

    pub(crate) fn insert(&mut self, id: u32, name: &str, mapping: Mapping) -> Arc<Collection> {
        let schema = mapping.schema();
        let collection = Arc::new(Collection { id, name: name.to_owned(), mapping, schema });
        self.by_name.insert(name.to_owned(), collection.clone());
        collection
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }
}

/// Bytes of a collection's name at most.
const NAME_BYTES_MAX: usize = 128;
/// Bytes of a document's id at most.
const ID_BYTES_MAX: usize = 512;

/// Names are 1 to 128 bytes of letters, digits, `-`, `_` and `.`, and start with a letter or digit.
pub(crate) fn check_name(name: &str) -> Result<(), Rejection> {
    let first = name.chars().next().is_some_and(char::is_alphanumeric);
    let rest = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if first && rest && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let reason = "a collection's name is 1 to 128 bytes of letters, digits, '-', '_' and '.', starting with a letter or digit";
    Err(Rejection::InvalidName { reason: reason.into() })
}

/// Names of spaces are as those of collections.
pub(crate) fn check_space(name: &str) -> Result<(), Rejection> {
    check_name(name).map_err(|_| Rejection::InvalidName {
        reason: "a space's name is 1 to 128 bytes of letters, digits, '-', '_' and '.', starting with a letter or digit".into(),
    })
}

/// Ids are 1 to 512 bytes without control characters.
pub(crate) fn check_id(id: &str) -> Result<(), Rejection> {
    if !id.is_empty() && id.len() <= ID_BYTES_MAX && !id.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Rejection::InvalidName {
        reason: "a document's id is 1 to 512 bytes without control characters".into(),
    })
}
