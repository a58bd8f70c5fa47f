"""LumenKV's client, as its users have it: generated from its own kv.proto."""

import sys

import grpc
import seed_kv_pb2 as pb
import seed_kv_pb2_grpc as rpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    kv = rpc.KeyValueStoreStub(channel)
    assert kv.Put(pb.PutRequest(key="greeting", value=b"hello\x00world")).success
    found = kv.Get(pb.GetRequest(key="greeting"))
    assert (found.found, found.value) == (True, b"hello\x00world"), found
    absent = kv.Get(pb.GetRequest(key="nobody"))
    assert (absent.found, absent.value) == (False, b""), absent
    assert kv.Delete(pb.DeleteRequest(key="greeting")).success is True
    assert kv.Delete(pb.DeleteRequest(key="greeting")).success is False
    for call, request in [
        (kv.Put, pb.PutRequest(key="", value=b"x")),
        (kv.Get, pb.GetRequest(key="")),
        (kv.Delete, pb.DeleteRequest(key="")),
    ]:
        try:
            call(request)
            raise SystemExit("an empty key was taken")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    keys = [f"k{n}" for n in range(500)]
    puts = [kv.Put.future(pb.PutRequest(key=key, value=key.encode() * 16)) for key in keys]
    assert all(put.result().success for put in puts)
    assert all(kv.Get(pb.GetRequest(key=key)).value == key.encode() * 16 for key in keys)
print("seed: all well")
