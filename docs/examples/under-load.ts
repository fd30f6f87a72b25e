/**
 * Two equal regions and a backup under traffic, while one region goes down and comes back: what routing, hedging, health checks and slow start
 * make of it. A minute and a half of virtual time.
 *
 *     npm run example docs/examples/under-load.ts
 */
import { LlmRequest, LlmResilience, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { VirtualTime } from "@llm-resilience/testing"
import { Console, Duration, Effect, Random, Stream } from "effect"

const time = VirtualTime.make({ seed: 7 })
const second = () => Math.floor(time.now() / 1000)

const region = (id: string, isUp: () => boolean) =>
  Provider.make({
    id,
    model: "gpt-4o",
    generate: () =>
      Effect.gen(function* () {
        // One call in twenty takes ten times as long.
        const isSlow = (yield* Random.next) < 0.05
        const usual = 200 + 200 * (yield* Random.next)
        yield* Effect.sleep(Duration.millis(isUp() ? (isSlow ? 10 * usual : usual) : 100))
        if (isUp()) return { content: LlmResponse.textContent("Hello!") }
        return yield* new ProviderError.APIError({ provider: id, reason: "ServerError", description: "503" })
      })
  })

const program = Effect.gen(function* () {
  const resilience = yield* LlmResilience.make({
    deadline: "20 seconds",
    health: { interval: "10 seconds", timeout: "2 seconds" },
    fallback: { hedge: {}, routing: { strategy: "least-latency" } },
    steps: [
      { provider: region("east", () => second() < 20 || second() >= 50), priority: 0 },
      { provider: region("west", () => true), priority: 0 },
      { provider: region("backup", () => true), priority: 1 }
    ]
  })

  const answered = new Map<string, number>()
  let slowest = 0
  let hedged = 0
  yield* Effect.forkScoped(
    Stream.runForEach(resilience.events, (event) => {
      if (event._tag === "Hedged") hedged++
      if (event._tag === "HealthChanged")
        return Console.log(`${second()} s: ${event.provider} is ${event.to} (${event.because})`)
      if (event._tag === "CircuitChanged")
        return Console.log(`${second()} s: the circuit of ${event.provider} is ${event.to}`)
      return Effect.void
    })
  )
  const ask = Effect.gen(function* () {
    const start = time.now()
    const { served } = yield* resilience.generate(request)
    answered.set(served.provider, (answered.get(served.provider) ?? 0) + 1)
    slowest = Math.max(slowest, time.now() - start)
  })

  for (let sent = 1; sent <= 20 * 90; sent++) {
    yield* Effect.forkChild(ask)
    yield* Effect.sleep("50 millis")
    if (sent % 200 > 0) continue
    const shares = ["east", "west", "backup"].map((id) => `${id} ${answered.get(id) ?? 0}`).join(", ")
    yield* Console.log(`${second()} s: ${shares}; the slowest took ${Math.round(slowest)} ms, ${hedged} hedged`)
    answered.clear()
    slowest = 0
    hedged = 0
  }
})

const request = LlmRequest.make({ prompt: "Hi" })
const ending = time.run(Effect.scoped(program))
if (ending._tag !== "Ended") throw new Error(`The program ended in a ${ending._tag}`)
