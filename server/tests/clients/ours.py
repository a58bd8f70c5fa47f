"""Every call of our protos, from Python."""

import json
import sys
import threading
import time

import grpc
import kv_pb2 as kv
import kv_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from lumen.v1 import lumen_pb2 as v1
from lumen.v1 import lumen_pb2_grpc


def refused(code, call, *arguments):
    """The details of a call that has to be refused."""
    try:
        answer = call(*arguments)
        if hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        assert error.code() == code, error
        info = error_details_pb2.ErrorInfo()
        found = [d for d in rpc_status.from_call(error).details if d.Unpack(info)]
        assert found and info.domain == "lumen", error
        return info
    raise SystemExit(f"{call} was not refused")


code = grpc.StatusCode
channel = grpc.insecure_channel(sys.argv[1])
store = kv_pb2_grpc.KeyValueStoreStub(channel)
documents = lumen_pb2_grpc.DocumentsStub(channel)
search = lumen_pb2_grpc.SearchStub(channel)
feed = lumen_pb2_grpc.ChangesStub(channel)
space = f"s{time.time_ns()}"

# Conditions, versions, what was replaced.
first = store.Put(kv.PutRequest(space=space, key="a", value=b"1", if_version=0))
info = refused(code.ABORTED, store.Put, kv.PutRequest(space=space, key="a", value=b"2", if_version=0))
assert info.reason == "precondition_failed" and info.metadata["current_version"] == str(first.seq)
second = store.Put(kv.PutRequest(space=space, key="a", value=b"2", if_version=first.seq, return_previous=True))
assert (second.previous.value, second.previous.version) == (b"1", first.seq)
raw = bytes(range(256))
store.Put(kv.PutRequest(space=space, raw_key=raw, value=raw))
assert store.Get(kv.GetRequest(space=space, raw_key=raw, level=kv.SESSION, min_seq=second.seq)).value == raw
refused(code.INVALID_ARGUMENT, store.Put, kv.PutRequest(space=space, key="a", ttl_ms=5, lease=7))
refused(code.INVALID_ARGUMENT, store.Put, kv.PutRequest(space="no/space", key="a"))
refused(code.OUT_OF_RANGE, store.Put, kv.PutRequest(space=space, key="k" * 9000))
refused(code.NOT_FOUND, store.Put, kv.PutRequest(space=space, key="a", lease=1 << 60))

# Many at once, then scans both ways, in pages, resumed, counted.
count = 5000
stream = (kv.PutRequest(space=space, key=f"scan/{n:05}", value=b"v" * 100) for n in range(count))
assert store.PutStream(stream).written == count
for reverse in (False, True):
    request = kv.ScanRequest(space=space, prefix=b"scan/", max_bytes=10_000, reverse=reverse)
    pages = list(store.Scan(request))
    keys = [pair.key for page in pages for pair in page.pairs]
    assert len(pages) > 10 and len({page.seq for page in pages}) == 1
    assert keys == sorted((f"scan/{n:05}".encode() for n in range(count)), reverse=reverse)
    request.limit = 10
    [page] = store.Scan(request)
    request.cursor = page.cursor
    [rest] = store.Scan(request)
    assert [pair.key for pair in list(page.pairs) + list(rest.pairs)] == keys[:20]
[page] = store.Scan(kv.ScanRequest(space=space, start=b"scan/00010", end=b"scan/00020", keys_only=True))
assert len(page.pairs) == 10 and not any(pair.value for pair in page.pairs)
assert [page.count for page in store.Scan(kv.ScanRequest(space=space, prefix=b"scan/", count_only=True))] == [count]
gone = store.Delete(kv.DeleteRequest(space=space, key="scan/000", prefix=True))
assert (gone.success, gone.deleted) == (True, 100)

# A batch and a transaction are whole or not at all.
ops = [
    kv.Op(put=kv.PutRequest(space=space, key="x", value=b"1")),
    kv.Op(get=kv.GetRequest(space=space, key="x")),
    kv.Op(delete=kv.DeleteRequest(space=space, key="a")),
]
for _ in range(2):  # the second time it is answered as before
    done = store.Batch(kv.BatchRequest(ops=ops, idempotency_key=space))
    assert done.written == 2 and done.results[1].get.value == b"1" and done.results[2].delete.success
bad = [kv.Op(delete=kv.DeleteRequest(space=space, key="x")), kv.Op(put=kv.PutRequest(space=space, key="y", lease=99))]
info = refused(code.NOT_FOUND, store.Batch, kv.BatchRequest(ops=bad))
assert info.reason == "lease_not_found" and info.metadata["operation"] == "1"
assert store.Get(kv.GetRequest(space=space, key="x")).found
lock = kv.TxnRequest(
    when=[kv.Compare(space=space, key=b"lock", exists=False)],
    then=[kv.Op(put=kv.PutRequest(space=space, key="lock", value=b"me"))],
    otherwise=[kv.Op(get=kv.GetRequest(space=space, key="lock"))],
)
assert store.Txn(lock).succeeded
lost = store.Txn(lock)
assert not lost.succeeded and lost.results[0].get.value == b"me"

# Counters by compare and set, many clients at once.
store.Put(kv.PutRequest(space=space, key="count", value=b"0"))


def count_up(times):
    for _ in range(times):
        while True:
            now = store.Get(kv.GetRequest(space=space, key="count"))
            value = str(int(now.value) + 1).encode()
            try:
                store.Put(kv.PutRequest(space=space, key="count", value=value, if_version=now.version))
                break
            except grpc.RpcError as error:
                assert error.code() == code.ABORTED, error


threads = [threading.Thread(target=count_up, args=[25]) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert store.Get(kv.GetRequest(space=space, key="count")).value == b"400"

# Leases and a watch: every event once and in order, resumed in the middle.
watch = store.Watch(kv.WatchRequest(space=space, prefix=b"w/"))
begun = next(watch).seq
lease = store.LeaseGrant(kv.LeaseGrantRequest(ttl_ms=60_000))
other = store.LeaseGrant(kv.LeaseGrantRequest(ttl_ms=300))
[kept, missing] = store.LeaseKeepAlive(iter([kv.Lease(id=lease.id), kv.Lease(id=1 << 50)]))
assert (kept.ttl_ms, missing.ttl_ms) == (60_000, 0)
store.Put(kv.PutRequest(space=space, key="w/1", value=b"1"))
store.Put(kv.PutRequest(space=space, key="w/2", value=b"2", lease=lease.id))
store.Put(kv.PutRequest(space=space, key="w/3", value=b"3", lease=other.id))
store.Put(kv.PutRequest(space=space, key="elsewhere", value=b"3"))
store.Delete(kv.DeleteRequest(space=space, key="w/1"))
store.LeaseRevoke(kv.Lease(id=lease.id))
assert not store.Get(kv.GetRequest(space=space, key="w/2")).found
store.Delete(kv.DeleteRequest(space=space, key="w/", prefix=True))


def events(stream, count):
    found = []
    for message in stream:
        found += [(event.kind, event.pair.key, event.seq) for event in message.events]
        if len(found) >= count:
            stream.cancel()
            return found


expected = [
    (kv.Event.PUT, b"w/1"),
    (kv.Event.PUT, b"w/2"),
    (kv.Event.PUT, b"w/3"),
    (kv.Event.DELETE, b"w/1"),
    (kv.Event.DELETE, b"w/2"),
]
seen = events(watch, 6)
assert [(kind, key) for kind, key, _ in seen][:5] == expected, seen
# What a lease of 300 ms kept expired before, or went with the prefix.
assert seen[5][0] in (kv.Event.EXPIRE, kv.Event.DELETE_RANGE), seen
for at in range(6):
    since = begun if at == 0 else seen[at - 1][2]
    again = events(store.Watch(kv.WatchRequest(space=space, prefix=b"w/", since=since)), 6 - at)
    assert again == seen[at:], (again, seen[at:])
progress = store.Watch(kv.WatchRequest(space=space, prefix=b"nothing/", progress=True))
assert next(progress).seq <= next(progress).seq
progress.cancel()
refused(code.INVALID_ARGUMENT, store.Watch, kv.WatchRequest(space=space, since=1 << 60))

# Documents, searches, changes.
books = f"books-{time.time_ns()}"
mapping = json.dumps({"fields": {"title": {"type": "text"}, "year": {"type": "i64", "indexed": True}}}).encode()
made = documents.CreateCollection(v1.CreateCollectionRequest(collection=books, mapping=mapping))
assert made.created and books in documents.ListCollections(v1.ListCollectionsRequest()).collections
follow = feed.Changes(v1.ChangesRequest(collection=books, since=made.seq))
put = documents.Put(v1.PutRequest(collection=books, id="w", json=b'{"title":"Walden, or Life in the Woods","year":1854}'))
assert put.created
hits = search.Search(v1.SearchRequest(collection=books, query="woods")).hits
assert [(hit.id, hit.version) for hit in hits] == [("w", put.seq)]
info = refused(code.INVALID_ARGUMENT, documents.Put, v1.PutRequest(collection=books, id="bad", json=b'{"yaer":1}'))
assert info.reason == "validation", info
refused(code.INVALID_ARGUMENT, search.Search, v1.SearchRequest(collection=books, query="(", limit=1))
refused(code.NOT_FOUND, documents.Get, v1.GetRequest(collection=books, id="nobody"))
puts = [v1.PutRequest(collection=books, id=f"d{n}", json=json.dumps({"title": f"number {n}"}).encode()) for n in range(1000)]
puts[500] = v1.PutRequest(collection=books, id="bad", json=b"no json")
answers = list(documents.PutStream(iter(puts)))
assert [answer.WhichOneof("result") for answer in answers] == ["put"] * 500 + ["refused"] + ["put"] * 499
found = search.Search(v1.SearchRequest(collection=books, query="number", limit=0))
assert found.total == 999, found
assert documents.Get(v1.GetRequest(collection=books, id="w")).version == put.seq
documents.Delete(v1.DeleteRequest(collection=books, id="w", if_version=put.seq))
documents.DropCollection(v1.DropCollectionRequest(collection=books))
changes = []
for message in follow:
    changes += [(change.WhichOneof("what"), change.seq) for change in message.changes]
    if changes and changes[-1][0] == "collection_dropped":
        break
assert [what for what, _ in changes] == ["document_put"] * 1000 + ["document_deleted", "collection_dropped"]
assert [seq for _, seq in changes] == sorted(seq for _, seq in changes)
print("ours: all well")
