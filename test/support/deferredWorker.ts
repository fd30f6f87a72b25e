// The process that test/integration/deferredCrash.test.ts kills: it hands in 1 000 requests, works them off, and writes down what its callers see.
import { appendFileSync, readFileSync } from "node:fs"
import * as DeferredQueue from "@llm-resilience/core/DeferredQueue"
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as Provider from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { storeAt } from "./deferredStoreAt.ts"

const [database = "", log = "", count = ""] = process.argv.slice(2)
// One write of one line: what the kill cuts off was not seen by anybody.
const note = (...line: ReadonlyArray<string | number>) => Effect.sync(() => appendFileSync(log, `${line.join("\t")}\n`))

const told = new Map(
  readFileSync(log, "utf8")
    .split("\n")
    .map((line) => line.split("\t"))
    .filter(([what]) => what === "accepted")
    .map(([, index = "", ticket = ""]) => [Number(index), ticket])
)

let calls = 0
const model = Provider.make({
  id: "model",
  model: "m",
  generate: (request) =>
    Effect.gen(function* () {
      const { content } = request.prompt.content[0] ?? { content: "" }
      const index = Number(typeof content !== "string" && content[0]?.type === "text" ? content[0].text : "")
      calls++
      yield* note("asked", index)
      yield* Effect.sleep(index % 7)
      if (index % 10 === 1) return yield* fail("InvalidRequest")
      // Now and then nobody answers, and the worker has to begin anew.
      if (calls % 300 === 0) return yield* fail("ServerError")
      // No two calls give the same answer, so a second one would show.
      return { content: LlmResponse.textContent(`${index} from ${process.pid} at call ${calls}`) }
    })
})
const fail = (reason: "InvalidRequest" | "ServerError") =>
  Effect.fail(new ProviderError.APIError({ provider: "model", reason, description: reason, retryAfter: undefined }))

const program = Effect.gen(function* () {
  const queue = yield* DeferredQueue.DeferredQueue
  const watch = (index: number, ticket: string) =>
    Effect.flatMap(queue.await(ticket), (end) =>
      note("ended", index, ticket, end._tag, end._tag === "Answered" ? end.response.text : "")
    )
  const handIn = Effect.fnUntraced(function* (index: number) {
    const request = LlmRequest.make({ prompt: String(index), mayWait: true, scope: "tenant" })
    const ticket = yield* queue.accept(request, {
      key: `request ${index}`,
      priority: index % 3,
      expiresAfter: index % 10 === 2 ? "50 millis" : undefined
    })
    yield* note("accepted", index, ticket)
    if (index % 10 === 3) yield* queue.cancel(ticket)
    yield* watch(index, ticket)
  })
  yield* Effect.forkChild(queue.workOff(model))
  yield* note("started")
  yield* Effect.forEach(
    Array.from({ length: Number(count) }, (_, index) => index),
    (index) => {
      const ticket = told.get(index)
      return ticket === undefined
        ? Effect.andThen(Effect.sleep((index % 50) * 40), handIn(index))
        : watch(index, ticket)
    },
    { concurrency: "unbounded", discard: true }
  )
  yield* note("done")
})

const queue = DeferredQueue.layer({
  lease: "300 millis",
  every: 0,
  concurrency: 8,
  // Each kill costs those an attempt that are being asked; here nobody is to die of it.
  maxAttempts: 100,
  backoff: "20 millis",
  pollInterval: "500 millis",
  onSettled: (settled) => note("handled", settled.ticket, settled._tag)
}).pipe(Layer.provide(storeAt(database)))

await Effect.runPromise(Effect.provide(program, queue))
