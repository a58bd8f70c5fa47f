//! The one error table as gRPC says it: a code, and in the details of `google.rpc` what the HTTP face has in its JSON.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Failure, Kind};

/// Whose reasons are meant.
const DOMAIN: &str = "lumen";

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let mut facts: HashMap<String, String> = HashMap::new();
        for (name, value) in &failure.details {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            facts.insert(name.clone(), text);
        }
        facts.extend(failure.seq.map(|seq| ("seq".to_owned(), seq.to_string())));
        let mut details = ErrorDetails::new();
        for name in ["field", "parameter"] {
            if let Some(field) = facts.get(name) {
                details.add_bad_request_violation(field.clone(), failure.message.clone());
            }
        }
        if let Some(seconds) = failure.retry_after_s() {
            details.set_retry_info(failure.retry_after.or(Some(std::time::Duration::from_secs(seconds))));
        }
        details.set_error_info(failure.kind.name(), DOMAIN, facts);
        Status::with_error_details(code(failure.kind), failure.message, details)
    }
}

/// The code of a kind.
pub(crate) fn code(kind: Kind) -> Code {
    match kind {
        Kind::CollectionNotFound | Kind::DocumentNotFound | Kind::KeyNotFound | Kind::LeaseNotFound => {
            Code::NotFound
        }
        Kind::LeaseExists | Kind::SchemaConflict => Code::AlreadyExists,
        Kind::RouteNotFound | Kind::MethodNotAllowed | Kind::UnsupportedEncoding => Code::Unimplemented,
        Kind::Mapping
        | Kind::Validation
        | Kind::InvalidName
        | Kind::QuerySyntax
        | Kind::QueryTooLong
        | Kind::UnknownParameter
        | Kind::InvalidParameter
        | Kind::IdempotencyMismatch
        | Kind::HeadersTooLarge
        | Kind::UriTooLong
        | Kind::BadRequest => Code::InvalidArgument,
        Kind::PreconditionFailed => Code::Aborted,
        Kind::TooLarge | Kind::Compacted => Code::OutOfRange,
        Kind::Timeout => Code::DeadlineExceeded,
        Kind::Overloaded | Kind::DiskFull => Code::ResourceExhausted,
        Kind::Unavailable | Kind::Behind | Kind::ForwardToLeader => Code::Unavailable,
        Kind::AlreadyInitialized | Kind::Membership => Code::FailedPrecondition,
        // Not UNAVAILABLE, which clients try again by themselves.
        Kind::OutcomeUnknown | Kind::Unknown => Code::Unknown,
        Kind::Corruption => Code::DataLoss,
        Kind::Internal => Code::Internal,
    }
}

/// The HTTP status under which a code is counted.
pub(crate) fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::OutOfRange => 400,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::FailedPrecondition => 409,
        Code::Aborted => 412,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::KINDS;

    #[test]
    fn what_a_failure_knows_is_in_the_details() {
        let mut failure = Failure::new(Kind::Validation, "no number").with("field", "year").with("limit", 7);
        failure = failure.at(41);
        let status = Status::from(failure);
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "no number"));
        let details = status.get_error_details();
        let info = details.error_info().expect("there");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("validation", "lumen"));
        assert_eq!((info.metadata["limit"].as_str(), info.metadata["seq"].as_str()), ("7", "41"));
        let bad = details.bad_request().expect("there");
        assert_eq!(bad.field_violations[0].field, "year");
        let busy = Failure::new(Kind::Unavailable, "no leader");
        let details = Status::from(busy).get_error_details();
        let retry = details.retry_info().expect("there");
        assert_eq!(retry.retry_delay, Some(std::time::Duration::from_secs(1)));
    }

    #[test]
    fn what_may_be_sent_again_is_unavailable_and_nothing_else_is() {
        for kind in KINDS {
            let again = [Kind::Unavailable, Kind::Behind, Kind::ForwardToLeader].contains(kind);
            assert_eq!(code(*kind) == Code::Unavailable, again, "{kind:?}");
            assert_ne!(code(*kind), Code::Ok);
        }
    }
}
