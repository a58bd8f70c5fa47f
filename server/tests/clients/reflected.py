"""A client that has no protos: it asks the server for them, as grpcurl does; and the server's health."""

import sys

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
services = set(database.get_services())
expected = {"kv.KeyValueStore", "lumen.v1.Documents", "lumen.v1.Search", "lumen.v1.Changes", "grpc.health.v1.Health"}
assert expected <= services, services
pool = DescriptorPool(database)
put = pool.FindServiceByName("kv.KeyValueStore").FindMethodByName("Put")
request, response = (message_factory.GetMessageClass(it) for it in (put.input_type, put.output_type))
call = channel.unary_unary(
    f"/{put.containing_service.full_name}/{put.name}",
    request_serializer=lambda message: message.SerializeToString(),
    response_deserializer=response.FromString,
)
assert call(request(key="by reflection", value=b"1")).success

# The same by the newer name of reflection.
newer = channel.stream_stream(
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    request_serializer=lambda message: message.SerializeToString(),
    response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
)
[answer] = newer(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
assert expected <= {service.name for service in answer.list_services_response.service}, answer

health = health_pb2_grpc.HealthStub(channel)
for service in ["", *sorted(expected - {"grpc.health.v1.Health"})]:
    status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
    assert status == health_pb2.HealthCheckResponse.SERVING, (service, status)
try:
    health.Check(health_pb2.HealthCheckRequest(service="nobody.Knows"))
    raise SystemExit("a service that there is not")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND
watched = health.Watch(health_pb2.HealthCheckRequest())
assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
watched.cancel()
try:
    channel.unary_unary("/no.Such/Call", request_serializer=bytes, response_deserializer=bytes)(b"")
    raise SystemExit("a call that there is not")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
print("reflected: all well")
