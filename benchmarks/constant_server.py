"""A server of gRPC that answers at once. Run by `benchmarks.served`.

What its calls take is what gRPC for Python takes, with nothing behind it.
"""

import asyncio
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

_SERVICE = 'inference.GRPCInferenceService'


async def serve() -> None:
  """Serves at a free port, which is printed."""
  response = service_pb2.ModelInferResponse(model_name='model')
  response.outputs.add(name='probability', datatype='FP32', shape=[1, 1])
  response.raw_output_contents.append(bytes(4))
  answer = response.SerializeToString()

  async def infer(request: bytes, context: Any) -> bytes:
    return answer

  server = grpc.aio.server()
  handlers = {'ModelInfer': grpc.unary_unary_rpc_method_handler(infer)}
  server.add_registered_method_handlers(_SERVICE, handlers)
  port = server.add_insecure_port('127.0.0.1:0')
  await server.start()
  print(f'ready at grpc://127.0.0.1:{port}', flush=True)
  await server.wait_for_termination()


if __name__ == '__main__':
  asyncio.run(serve())
