//! The one table of routes: router, metric labels, 404, 405 and the OpenAPI page are all made from it.

use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;

use matchit::Router;
use serde_json::{Map, Value, json};

use crate::error::{Failure, KINDS};
use crate::http::changes::FOLLOWING;
use crate::http::reply::Reply;
use crate::http::request::{Call, READING};
use crate::http::{admin, changes, cluster, collections, documents, import, keys, leases, search, tx};

/// A handler at work.
pub(crate) type Handling = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;

/// One operation.
pub(crate) struct Route {
    /// GET answers HEAD as well.
    pub(crate) method: &'static str,
    /// As matchit reads it; also the metric label.
    pub(crate) path: &'static str,
    /// Its name, unique; the OpenAPI page's `operationId`.
    pub(crate) operation: &'static str,
    /// One line for people.
    pub(crate) summary: &'static str,
    /// The query parameters it takes; others are refused.
    pub(crate) parameters: &'static [&'static str],
    /// Statuses it answers when all is well.
    pub(crate) answers: &'static [u16],
    /// Who does it.
    pub(crate) handler: fn(Call) -> Handling,
}

/// Every operation there is.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/collections",
        operation: "list_collections",
        summary: "Names of all collections",
        parameters: &READING,
        answers: &[200],
        handler: |call| Box::pin(collections::list(call)),
    },
    Route {
        method: "PUT",
        path: "/collections/{collection}",
        operation: "create_collection",
        summary: "Create a collection with this mapping; the same again changes nothing",
        parameters: &[],
        answers: &[201, 200],
        handler: |call| Box::pin(collections::create(call)),
    },
    Route {
        method: "GET",
        path: "/collections/{collection}",
        operation: "describe_collection",
        summary: "The collection's mapping",
        parameters: &READING,
        answers: &[200],
        handler: |call| Box::pin(collections::describe(call)),
    },
    Route {
        method: "DELETE",
        path: "/collections/{collection}",
        operation: "drop_collection",
        summary: "Drop the collection and all its documents",
        parameters: &[],
        answers: &[204],
        handler: |call| Box::pin(collections::remove(call)),
    },
    Route {
        method: "POST",
        path: "/collections/{collection}/documents",
        operation: "add_document",
        summary: "Store a document under a new id",
        parameters: &[],
        answers: &[201],
        handler: |call| Box::pin(documents::add(call)),
    },
    Route {
        method: "PUT",
        path: "/collections/{collection}/documents/{id}",
        operation: "put_document",
        summary: "Create or replace a document; If-Match and If-None-Match: * make it conditional",
        parameters: &[],
        answers: &[201, 200],
        handler: |call| Box::pin(documents::put(call)),
    },
    Route {
        method: "GET",
        path: "/collections/{collection}/documents/{id}",
        operation: "get_document",
        summary: "Read a document",
        parameters: &READING,
        answers: &[200, 304],
        handler: |call| Box::pin(documents::get(call)),
    },
    Route {
        method: "DELETE",
        path: "/collections/{collection}/documents/{id}",
        operation: "delete_document",
        summary: "Delete a document, whether it is there or not",
        parameters: &[],
        answers: &[204],
        handler: |call| Box::pin(documents::delete(call)),
    },
    Route {
        method: "GET",
        path: "/collections/{collection}/documents/search",
        operation: "search",
        summary: "Search with a query string, best first",
        parameters: &["q", "limit", "offset", READING[0], READING[1]],
        answers: &[200],
        handler: |call| Box::pin(search::search(call)),
    },
    // The path above belongs to the search on GET alone: these two mean the document whose id is "search".
    Route {
        method: "PUT",
        path: "/collections/{collection}/documents/search",
        operation: "put_document_named_search",
        summary: "Create or replace the document whose id is \"search\"; read it at /document?id=search",
        parameters: &[],
        answers: &[201, 200],
        handler: |call| Box::pin(documents::put(documents::named_search(call))),
    },
    Route {
        method: "DELETE",
        path: "/collections/{collection}/documents/search",
        operation: "delete_document_named_search",
        summary: "Delete the document whose id is \"search\"",
        parameters: &[],
        answers: &[204],
        handler: |call| Box::pin(documents::delete(documents::named_search(call))),
    },
    Route {
        method: "PUT",
        path: "/collections/{collection}/document",
        operation: "put_document_by_query",
        summary: "Create or replace a document; any id, also with / or \"search\"",
        parameters: &["id"],
        answers: &[201, 200],
        handler: |call| Box::pin(documents::with_id_parameter(call, |call| Box::pin(documents::put(call)))),
    },
    Route {
        method: "GET",
        path: "/collections/{collection}/document",
        operation: "get_document_by_query",
        summary: "Read a document; any id, also with / or \"search\"",
        parameters: &["id", READING[0], READING[1]],
        answers: &[200, 304],
        handler: |call| Box::pin(documents::with_id_parameter(call, |call| Box::pin(documents::get(call)))),
    },
    Route {
        method: "DELETE",
        path: "/collections/{collection}/document",
        operation: "delete_document_by_query",
        summary: "Delete a document; any id, also with / or \"search\"",
        parameters: &["id"],
        answers: &[204],
        handler: |call| {
            Box::pin(documents::with_id_parameter(call, |call| Box::pin(documents::delete(call))))
        },
    },
    Route {
        method: "POST",
        path: "/collections/{collection}/import",
        operation: "import",
        summary: "Store a stream of documents, one JSON object a line; answers a line for each rejected one, and a summary",
        parameters: &["id_field", "progress"],
        answers: &[200, 207, 422],
        handler: |call| Box::pin(import::import(call)),
    },
    Route {
        method: "GET",
        path: "/kv",
        operation: "list_spaces",
        summary: "Names of the spaces in which there are keys",
        parameters: &READING,
        answers: &[200],
        handler: |call| Box::pin(keys::spaces(call)),
    },
    Route {
        method: "PUT",
        path: "/kv/{space}/keys/{*key}",
        operation: "put_key",
        summary: "Put a value, the body as it is; If-Match, If-None-Match: *, Lumen-TTL: 30s or Lumen-Lease: 7",
        parameters: &[],
        answers: &[201, 200],
        handler: |call| Box::pin(keys::put(call)),
    },
    Route {
        method: "GET",
        path: "/kv/{space}/keys/{*key}",
        operation: "get_key",
        summary: "Read a value as it is",
        parameters: &READING,
        answers: &[200, 304],
        handler: |call| Box::pin(keys::get(call)),
    },
    Route {
        method: "DELETE",
        path: "/kv/{space}/keys/{*key}",
        operation: "delete_key",
        summary: "Delete a key, whether it is there or not",
        parameters: &[],
        answers: &[204],
        handler: |call| Box::pin(keys::delete(call)),
    },
    Route {
        method: "POST",
        path: "/kv/{space}/batch",
        operation: "batch_keys",
        summary: "Several puts, deletes and gets of keys, all of them or none: {\"ops\":[{\"put\":{\"key\":…,\"value\":…}}]}",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(tx::batch(call)),
    },
    Route {
        method: "GET",
        path: "/kv/{space}/watch",
        operation: "watch_keys",
        summary: "What happens to keys, as server-sent events or lines of JSON; since= or Last-Event-ID goes on",
        parameters: &[
            "prefix",
            "start",
            "end",
            FOLLOWING[0],
            FOLLOWING[1],
            FOLLOWING[2],
            FOLLOWING[3],
            FOLLOWING[4],
        ],
        answers: &[200],
        handler: |call| Box::pin(changes::watch(call)),
    },
    Route {
        method: "GET",
        path: "/changes",
        operation: "follow_changes",
        summary: "What happens to documents and keys, as server-sent events or lines of JSON",
        parameters: &[
            "collection",
            "space",
            "prefix",
            FOLLOWING[0],
            FOLLOWING[1],
            FOLLOWING[2],
            FOLLOWING[3],
            FOLLOWING[4],
        ],
        answers: &[200],
        handler: |call| Box::pin(changes::changes(call)),
    },
    Route {
        method: "POST",
        path: "/tx",
        operation: "transact",
        summary: "Do one of two lists of operations on documents and keys, whole or not at all, by what is there",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(tx::transact(call)),
    },
    Route {
        method: "POST",
        path: "/leases",
        operation: "grant_lease",
        summary: "Make a lease: {\"ttl\":\"30s\"}; what is put with it is kept as long as it is kept alive",
        parameters: &[],
        answers: &[201],
        handler: |call| Box::pin(leases::grant(call)),
    },
    Route {
        method: "GET",
        path: "/leases/{id}",
        operation: "get_lease",
        summary: "How long a lease lasts",
        parameters: &READING,
        answers: &[200],
        handler: |call| Box::pin(leases::get(call)),
    },
    Route {
        method: "PUT",
        path: "/leases/{id}",
        operation: "keep_lease_alive",
        summary: "Have a lease last for its time again, from now on",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(leases::keep_alive(call)),
    },
    Route {
        method: "DELETE",
        path: "/leases/{id}",
        operation: "revoke_lease",
        summary: "End a lease, and delete all that it keeps",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(leases::revoke(call)),
    },
    Route {
        method: "DELETE",
        path: "/kv/{space}/keys",
        operation: "delete_keys",
        summary: "Delete all keys with a prefix, or from start to before end",
        parameters: &["prefix", "start", "end", "encoding"],
        answers: &[200],
        handler: |call| Box::pin(keys::delete_range(call)),
    },
    Route {
        method: "GET",
        path: "/kv/{space}/scan",
        operation: "scan_keys",
        summary: "Keys and values in order, a page at a time; cursor goes on where the page before ended",
        parameters: &[
            "prefix",
            "start",
            "end",
            "limit",
            "max_bytes",
            "reverse",
            "keys_only",
            "encoding",
            "cursor",
            READING[0],
            READING[1],
        ],
        answers: &[200],
        handler: |call| Box::pin(keys::scan(call)),
    },
    Route {
        method: "GET",
        path: "/cluster",
        operation: "show_cluster",
        summary: "Who is in the cluster, who leads, who is behind",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(cluster::show(call)),
    },
    Route {
        method: "GET",
        path: "/cluster/metrics",
        operation: "cluster_metrics",
        summary: "Where this node is in the replicated log",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(cluster::metrics(call)),
    },
    Route {
        method: "POST",
        path: "/cluster/init",
        operation: "init_cluster",
        summary: "Form a cluster of this node, or of those named in {\"members\":[{\"id\":1,\"addr\":\"host:7701\"}]}",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(cluster::init(call)),
    },
    Route {
        method: "POST",
        path: "/cluster/learners",
        operation: "add_learner",
        summary: "Have the node {\"id\":2,\"addr\":\"host:7701\"} follow without voting",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(cluster::add_learner(call)),
    },
    Route {
        method: "POST",
        path: "/cluster/membership",
        operation: "set_membership",
        summary: "Have these nodes vote, and no others: {\"voters\":[1,2,3],\"retain\":false}",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(cluster::set_membership(call)),
    },
    Route {
        method: "POST",
        path: "/cluster/join",
        operation: "join_cluster",
        summary: "Have this node join the cluster of the node at {\"addr\":\"host:7701\"}; it votes once it has caught up",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(cluster::join(call)),
    },
    Route {
        method: "DELETE",
        path: "/cluster/members/{id}",
        operation: "remove_member",
        summary: "Have a node leave the cluster",
        parameters: &[],
        answers: &[204],
        handler: |call| Box::pin(cluster::remove(call)),
    },
    Route {
        method: "POST",
        path: "/cluster/transfer",
        operation: "transfer_leadership",
        summary: "Have the node {\"to\":2} lead, or any other that votes",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(cluster::transfer(call)),
    },
    Route {
        method: "GET",
        path: "/health",
        operation: "health",
        summary: "200 while the node serves",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(admin::health(call)),
    },
    Route {
        method: "GET",
        path: "/livez",
        operation: "livez",
        summary: "200 while the process answers",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(admin::livez(call)),
    },
    Route {
        method: "GET",
        path: "/readyz",
        operation: "readyz",
        summary: "200 while requests can be answered; ?verbose says what is checked, and what to do",
        parameters: &["verbose"],
        answers: &[200],
        handler: |call| Box::pin(admin::readyz(call)),
    },
    Route {
        method: "GET",
        path: "/metrics",
        operation: "metrics",
        summary: "Counters as OpenMetrics text",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(admin::metrics(call)),
    },
    Route {
        method: "GET",
        path: "/openapi.json",
        operation: "openapi",
        summary: "This table",
        parameters: &[],
        answers: &[200],
        handler: |call| Box::pin(admin::openapi(call)),
    },
];

/// The routes of one path.
pub(crate) struct PathRoutes {
    routes: Vec<&'static Route>,
    /// For the `Allow` header.
    pub(crate) allow: String,
}

impl PathRoutes {
    /// The route for a method; HEAD is answered by GET.
    pub(crate) fn find(&self, method: &str) -> Option<&'static Route> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.routes.iter().copied().find(|route| route.method == method)
    }
}

/// Finds the routes of a path.
pub(crate) static ROUTER: LazyLock<Router<PathRoutes>> = LazyLock::new(|| {
    let mut router = Router::new();
    for (nth, route) in ROUTES.iter().enumerate() {
        if ROUTES[..nth].iter().any(|earlier| earlier.path == route.path) {
            continue;
        }
        let routes: Vec<&Route> = ROUTES.iter().filter(|other| other.path == route.path).collect();
        let mut methods: Vec<&str> = routes.iter().map(|route| route.method).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        let entry = PathRoutes { allow: methods.join(", "), routes };
        let inserted = router.insert(route.path, entry);
        assert!(inserted.is_ok(), "the table's path {} conflicts with another", route.path);
    }
    router
});

/// The table as an OpenAPI document.
pub(crate) fn openapi() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let in_path =
            route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(|name| {
                let name = name.trim_start_matches('*');
                json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
            });
        let in_query = route
            .parameters
            .iter()
            .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }));
        let parameters: Vec<Value> = in_path.chain(in_query).collect();
        let mut responses = Map::new();
        for status in route.answers {
            let meaning = http::StatusCode::from_u16(*status).ok().and_then(|s| s.canonical_reason());
            responses.insert(status.to_string(), json!({ "description": meaning.unwrap_or("as said") }));
        }
        responses.insert("default".into(), json!({ "$ref": "#/components/responses/Error" }));
        let operation = json!({
            "operationId": route.operation,
            "summary": route.summary,
            "parameters": parameters,
            "responses": responses,
        });
        // A key may hold slashes; OpenAPI has no word for that.
        let path = route.path.replace("{*", "{");
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[route.method.to_ascii_lowercase()] = operation;
    }
    let types: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Lumen", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "responses": { "Error": {
                "description": "What went wrong",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
            } },
            "schemas": { "Error": {
                "type": "object",
                "required": ["error"],
                "properties": { "error": {
                    "type": "object",
                    "required": ["type", "message"],
                    "properties": {
                        "type": { "type": "string", "enum": types },
                        "message": { "type": "string" },
                        "hint": { "type": "string" },
                        "field": { "type": "string" },
                        "line": { "type": "integer" },
                        "column": { "type": "integer" },
                        "request_id": { "type": "string" },
                    },
                } },
            } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_the_router_and_the_openapi_page_agree() {
        let page = openapi();
        for (nth, route) in ROUTES.iter().enumerate() {
            let path = route.path.replace("{collection}", "c").replace("{id}", "some-id");
            let path = path.replace("{space}", "s").replace("{*key}", "some/key");
            let found = ROUTER.at(&path).expect(route.path).value;
            let same = found.find(route.method).expect(route.operation);
            assert_eq!(same.operation, route.operation);
            assert!(found.allow.contains(route.method));
            let described = &page["paths"][route.path.replace("{*", "{")][route.method.to_ascii_lowercase()];
            assert_eq!(described["operationId"], route.operation);
            assert!(ROUTES[..nth].iter().all(|other| other.operation != route.operation));
        }
    }

    #[test]
    fn the_search_shadows_no_document() {
        let at = |path: &str, method: &str| ROUTER.at(path).unwrap().value.find(method).unwrap().operation;
        assert_eq!(at("/collections/c/documents/search", "GET"), "search");
        assert_eq!(at("/collections/c/documents/search", "PUT"), "put_document_named_search");
        assert_eq!(at("/collections/c/documents/searching", "GET"), "get_document");
        assert_eq!(at("/collections/c/documents/a%2Fb", "GET"), "get_document");
        assert!(ROUTER.at("/collections/c/documents/a/b").is_err());
    }
}
