/**
 * A bad quarter of an hour: both providers are down, requests that may wait get a ticket, and are answered when one is back.
 *
 *   npm run example docs/examples/deferred.ts
 *
 * No account is needed: the providers follow a script.
 */
import { DeferredQueue, type LlmRequest, LlmResilience } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Console, Effect, Layer } from "effect"

const outage = Array.from({ length: 6 }, () => ScriptedProvider.fail("InvalidResponse"))

const queue = DeferredQueue.layerMemory({
  capacity: 3,
  backoff: "300 millis",
  pollInterval: "100 millis",
  onSettled: (settled) => Console.log(`  handler: ticket ${settled.ticket.slice(0, 8)} ended ${settled._tag}`)
})

const resilient = LlmResilience.layer({
  steps: [
    { provider: ScriptedProvider.layer({ id: "first", script: [ScriptedProvider.fail("Authentication")] }) },
    {
      provider: ScriptedProvider.layer({
        id: "second",
        script: [...outage, ScriptedProvider.answer("Here is what you asked for.")]
      }),
      policy: LlmResilience.standard({ retry: "off", circuitBreaker: { openFor: "1 second" } })
    }
  ],
  around: DeferredQueue.policy({ terms: (request) => ({ priority: request.scope === "gold" ? 1 : 0 }) })
})

const ask = (prompt: string, more?: Partial<LlmRequest.Input>) =>
  Effect.gen(function* () {
    const reply = yield* LlmResilience.generateOrNotice({ prompt, mayWait: true, ...more })
    if (reply._tag === "Answer") return yield* Effect.as(Console.log(`${prompt} ${reply.response.text}`), undefined)
    const ticket = reply._tag === "Queued" ? reply.ticket : undefined
    const shown = ticket === undefined ? "" : ` (ticket ${ticket.slice(0, 8)})`
    yield* Console.log(`${prompt} ${reply.notice.message}${shown}`)
    return ticket
  })

const program = Effect.gen(function* () {
  const deferred = yield* DeferredQueue.DeferredQueue
  const tickets = [
    yield* ask("A label for this ticket?"),
    yield* ask("A summary of the day?"),
    yield* ask("A draft for our best customer?", { scope: "gold" })
  ]
  yield* ask("One too many?")
  yield* ask("And one that cannot wait?", { mayWait: false })

  yield* deferred.cancel(tickets[0] ?? "")
  for (const ticket of tickets) {
    const end = yield* deferred.await(ticket ?? "")
    yield* Console.log(`${end._tag}${end._tag === "Answered" ? `: ${end.response.text}` : ""}`)
  }
  yield* Effect.sleep("200 millis")
})

await Effect.runPromise(Effect.provide(program, Layer.provideMerge(resilient, queue)))
