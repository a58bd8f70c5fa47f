//! Who is in the cluster: seeing it, forming it, joining it, leaving it, handing leadership over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lumen_raft::{Change, Member, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Failure, Kind, excerpt};
use crate::http::reply::{Reply, empty, json_value};
use crate::http::request::Call;
use crate::node::{ClusterFace, Node};

/// Bytes of a request's body, at most.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How long another node may take to say who it is.
const HELLO_TIME_MAX: Duration = Duration::from_secs(3);

/// What is asked of a node that stands alone.
fn face(node: &Arc<Node>) -> Result<&ClusterFace, Failure> {
    node.cluster.as_ref().ok_or_else(|| {
        Failure::new(Kind::RouteNotFound, "this node stands alone: it is in no cluster").with(
            "hint",
            "lumen cluster --id 1 --init on the same data folder makes it the first node of one, with all it holds",
        )
    })
}

/// Reads a JSON body; an empty one is `{}`.
async fn body<T: DeserializeOwned>(call: &mut Call) -> Result<T, Failure> {
    let bytes = call.read_body("the request", BODY_BYTES_MAX).await?;
    let text = if bytes.trim_ascii().is_empty() { &b"{}"[..] } else { &bytes };
    serde_json::from_slice(text).map_err(|error| {
        Failure::new(Kind::BadRequest, format!("the body cannot be used: {error}"))
            .with("line", error.line())
            .with("column", error.column())
    })
}

/// A member as people write it down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    id: u64,
    #[serde(default)]
    addr: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Init {
    #[serde(default)]
    members: Vec<Named>,
}

/// `POST /cluster/init`: forms a cluster of this node, or of those that are named.
pub(crate) async fn init(mut call: Call) -> Result<Reply, Failure> {
    let Init { members: named } = body(&mut call).await?;
    let face = face(&call.node)?;
    let me = face.raft.identity().id;
    let mut members = BTreeMap::from([(me, face.raft.member())]);
    if !named.is_empty() && named.iter().all(|one| one.id != me) {
        let message = format!("node {me}, which is asked, is not among the members");
        return Err(Failure::new(Kind::BadRequest, message));
    }
    for one in named.into_iter().filter(|one| one.id != me) {
        let member = greet(face, one.id, one.addr).await?;
        members.insert(one.id, member);
    }
    let ids: Vec<u64> = members.keys().copied().collect();
    face.raft.initialize(members).await?;
    Ok(json_value(200, &json!({ "id": me, "voters": ids })))
}

/// Asks the node at an address who it is, and has it be the one that is meant.
async fn greet(face: &ClusterFace, id: u64, addr: Option<String>) -> Result<Member, Failure> {
    let Some(addr) = addr.or_else(|| face.known.get(&id).cloned()) else {
        let message = format!("where is node {id}? its address was given neither here nor with --peer");
        return Err(Failure::new(Kind::BadRequest, message).with("hint", "{\"id\":2,\"addr\":\"host:7701\"}"));
    };
    let asked = tokio::time::timeout(HELLO_TIME_MAX, face.peers.hello(&addr)).await;
    let cannot =
        |why: String| Failure::new(Kind::Unavailable, format!("node {id} at {} {why}", excerpt(&addr)));
    let hello = match asked {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => return Err(cannot(error.to_string())),
        Err(_) => return Err(cannot(format!("does not answer within {HELLO_TIME_MAX:?}"))),
    };
    if hello.from.id != id {
        let message = format!("at {} is node {}, not node {id}", excerpt(&addr), hello.from.id);
        return Err(Failure::new(Kind::Membership, message));
    }
    Ok(Member { raft_addr: addr, api_url: hello.url, store: hello.from.store, ..Member::default() })
}

/// `POST /cluster/learners`: has a node follow without voting.
pub(crate) async fn add_learner(mut call: Call) -> Result<Reply, Failure> {
    let Named { id, addr } = body(&mut call).await?;
    let face = face(&call.node)?;
    let member = greet(face, id, addr).await?;
    face.raft.change(Change::Learner { id, member }, call.node.limits.request_timeout).await?;
    Ok(json_value(200, &json!({ "id": id })))
}

/// The voters, as a list or with a word about it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Voters {
    Bare(BTreeSet<u64>),
    Named {
        #[serde(alias = "members")]
        voters: BTreeSet<u64>,
        #[serde(default)]
        retain: bool,
    },
}

/// `POST /cluster/membership`: has these nodes vote, and no others.
pub(crate) async fn set_membership(mut call: Call) -> Result<Reply, Failure> {
    let (voters, retain) = match body(&mut call).await? {
        Voters::Bare(voters) => (voters, false),
        Voters::Named { voters, retain } => (voters, retain),
    };
    let face = face(&call.node)?;
    let listed: Vec<u64> = voters.iter().copied().collect();
    face.raft.change(Change::Voters { voters, retain }, call.node.limits.request_timeout).await?;
    Ok(json_value(200, &json!({ "voters": listed })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    addr: String,
}

/// `POST /cluster/join`: has this node join the cluster that a node at an address is a member of.
pub(crate) async fn join(mut call: Call) -> Result<Reply, Failure> {
    let Join { addr } = body(&mut call).await?;
    let face = face(&call.node)?;
    face.raft.join(&addr, call.node.limits.request_timeout).await?;
    Ok(json_value(200, &json!({ "id": face.raft.identity().id })))
}

/// `DELETE /cluster/members/{id}`: has a node leave.
pub(crate) async fn remove(call: Call) -> Result<Reply, Failure> {
    let face = face(&call.node)?;
    let id = call.id.parse().map_err(|_| {
        Failure::new(Kind::BadRequest, format!("a node has a number, not {}", excerpt(&call.id)))
    })?;
    face.raft.change(Change::Remove { id }, call.node.limits.request_timeout).await?;
    Ok(empty(204))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    #[serde(default)]
    to: Option<u64>,
}

/// `POST /cluster/transfer`: has another node lead.
pub(crate) async fn transfer(mut call: Call) -> Result<Reply, Failure> {
    let Transfer { to } = body(&mut call).await?;
    let face = face(&call.node)?;
    face.raft.change(Change::Transfer { to }, call.node.limits.request_timeout).await?;
    Ok(json_value(200, &json!({ "leader": face.raft.status().leader })))
}

/// `GET /cluster/metrics`: where this node is.
pub(crate) async fn metrics(call: Call) -> Result<Reply, Failure> {
    let status = face(&call.node)?.raft.status();
    let members: Map<String, Value> = status
        .members
        .iter()
        .map(|(id, member)| (id.to_string(), member.raft_addr.as_str().into()))
        .collect();
    Ok(json_value(
        200,
        &json!({
            "id": status.id,
            "current_term": status.term,
            "state": status.state,
            "current_leader": status.leader,
            "last_log_index": status.last_log_index,
            "last_applied_index": status.applied_index,
            "voters": status.voters,
            "members": members,
        }),
    ))
}

/// `GET /cluster`: what people want to know.
pub(crate) async fn show(call: Call) -> Result<Reply, Failure> {
    let face = face(&call.node)?;
    let status = face.raft.status();
    let members: Vec<Value> =
        status.members.iter().map(|(id, member)| describe(&status, *id, member)).collect();
    Ok(json_value(
        200,
        &json!({
            "name": face.name,
            "id": face.raft.cluster().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            "summary": summary(&status),
            "leader": status.leader,
            "term": status.term,
            "asked": status.id,
            "members": members,
        }),
    ))
}

/// One sentence.
fn summary(status: &Status) -> String {
    let voters = status.voters.len();
    match status.leader {
        _ if status.members.is_empty() => {
            "this node is in no cluster yet: POST /cluster/init forms one, POST /cluster/join joins one"
                .into()
        }
        None => format!("no leader is known; {} of {voters} voters have to be there", voters / 2 + 1),
        Some(leader) if leader == status.id => {
            let away: Vec<String> =
                status.members.keys().filter(|id| !status.live.contains(id)).map(u64::to_string).collect();
            match away.as_slice() {
                [] => format!("node {leader} leads, all {} nodes are there", status.members.len()),
                away => format!("node {leader} leads; no answer from node {}", away.join(" and node ")),
            }
        }
        Some(leader) => format!("node {leader} leads; it knows who is there"),
    }
}

fn describe(status: &Status, id: u64, member: &Member) -> Value {
    let role = match (status.leader == Some(id), status.voters.contains(&id), member.joining) {
        (true, ..) => "leader",
        (_, true, _) => "follower",
        (_, _, true) => "joining",
        _ => "learner",
    };
    let mut value = json!({ "id": id, "role": role, "addr": member.raft_addr, "url": member.api_url });
    // Only the leader knows how far the others are.
    if status.leader == Some(status.id) {
        let at = status.replicated.get(&id).copied().flatten();
        let last = status.last_log_index.map_or(0, |last| last + 1);
        value["answers"] = status.live.contains(&id).into();
        if id != status.id {
            value["lag"] = last.saturating_sub(at.map_or(0, |at| at + 1)).into();
        }
    }
    value
}
