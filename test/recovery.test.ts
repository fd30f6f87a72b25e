import { assert, describe, it } from "@effect/vitest"
import { Fallback, LlmRequest, type LlmResponse, LlmResilience, type Provider, Retry } from "@llm-resilience/core"
import { type Answer, Fault, Upstream } from "@llm-resilience/testing"
import { Effect, Exit, Fiber, Random, Stream } from "effect"
import { FetchHttpClient } from "effect/http"
import { adapters, type Protocol, protocols } from "./support/adapters.ts"

// Every pair of adapters through every way of breaking in the middle, over real HTTP: the joined text is the canonical answer, or the
// stream ends with exactly one typed error; both never.

const canonical =
  "The quick brown fox jumps over the lazy dog.  It is quick, and it is brown.\n\nÄhnlich wie 🦊 in einem Buch."
const request = LlmRequest.make({ prompt: "Tell me about the fox" })

const step = (protocol: Protocol, id: string, baseUrl: string) =>
  adapters[protocol]({ id, model: "claude-3-opus", baseUrl, capabilities: { prefill: true } })

/** A model that goes on where an assistant message at the end of the conversation stops. */
const obedient: Answer.Answer = ({ messages }) => {
  const last = messages.at(-1)
  return last?.role === "assistant" ? canonical.slice(last.text.length) : canonical
}

const policy = LlmResilience.standard({
  timeouts: { firstToken: "1 second", idle: "150 millis" },
  retry: { schedule: Retry.exponential({ retries: 0 }) },
  circuitBreaker: "off"
})

const pair = Effect.fnUntraced(function* (from: Protocol, to: Protocol, answer: Answer.Answer) {
  const broken = yield* Upstream.make({ answer: canonical })
  const healthy = yield* Upstream.make({ answer })
  const first = yield* step(from, "first", broken.baseUrl)
  const second = yield* step(to, "second", healthy.baseUrl)
  const chain = yield* Fallback.make([yield* policy(first), yield* policy(second)])
  return { broken, healthy, chain }
})

const read = (stream: Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure>) => {
  const parts: Array<LlmResponse.LlmStreamPart> = []
  return Effect.map(Effect.exit(Stream.runForEach(stream, (part) => Effect.sync(() => parts.push(part)))), (exit) => ({
    exit,
    parts,
    text: parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join(""),
    finishes: parts.filter((part) => part.type === "finish").length
  }))
}

const reasonOf = (exit: Exit.Exit<unknown, Provider.Failure>): string => {
  const error = Exit.findErrorOption(exit)
  return error._tag === "None" ? "none" : error.value._tag === "APIError" ? error.value.reason : error.value._tag
}

const tokens = 22
const breaks = (everyToken: boolean): ReadonlyArray<readonly [string, Fault.Fault]> => {
  const places = Array.from({ length: tokens }, (_, index) => index + 1)
  const some = places.filter((place) => everyToken || place % 7 === 3)
  return [
    ...some.map((place) => [`cut after ${place}`, Fault.cut(place)] as const),
    ...some.map((place) => [`clean end after ${place}`, Fault.endEarly(place)] as const),
    ...some.map((place) => [`malformed after ${place}`, Fault.malformedChunk(place)] as const),
    ...some.map((place) => [`error frame after ${place}`, Fault.errorFrame(place)] as const),
    ["stall after 3", Fault.stall(3)],
    ["stall after 12", Fault.stall(12)],
    ["missing finish", Fault.missingFinish]
  ]
}

for (const from of protocols) {
  for (const to of protocols) {
    // What breaks does not depend on who takes over, so one pair for each protocol tries every token.
    const thorough = to === (from === "openai" ? "anthropic" : "openai")
    // Most of the time passes in waiting for streams that stall, and that can be done at the same time.
    describe.concurrent(`A stream of ${from} that breaks, with ${to} behind it`, () => {
      it.live("is finished by a model that accepts the prefill, wherever and however it breaks", () =>
        Effect.gen(function* () {
          const { broken, chain, healthy } = yield* pair(from, to, obedient)
          for (const [name, fault] of breaks(thorough)) {
            yield* broken.setFault(fault)
            const { exit, finishes, text } = yield* read(chain.stream(request))

            assert.strictEqual(reasonOf(exit), "none", name)
            assert.strictEqual(text, canonical, name)
            assert.strictEqual(finishes, 1, name)
          }
          assert.isTrue(
            (yield* healthy.requests).some(({ body }) => /"role":"(?:assistant|model)"/.test(JSON.stringify(body)))
          )
        }).pipe(Effect.provide(FetchHttpClient.layer))
      )

      it.live("is finished as well when the bytes end anywhere inside an event", () =>
        Effect.gen(function* () {
          const { broken, chain } = yield* pair(from, to, obedient)
          for (let run = 0; run < (thorough ? 40 : 8); run++) {
            const share = yield* Random.next
            yield* broken.setFault(Fault.truncate(share))
            const { exit, text } = yield* read(chain.stream(request))

            assert.strictEqual(reasonOf(exit), "none", `${share} of the bytes`)
            assert.strictEqual(text, canonical, `${share} of the bytes`)
          }
        }).pipe(Random.withSeed(`${from}-${to}`), Effect.provide(FetchHttpClient.layer))
      )

      it.live("is finished by a restart when the prefill is refused or ignored", () =>
        Effect.gen(function* () {
          const refusing = yield* pair(from, to, canonical)
          const ignoring = yield* pair(from, to, canonical)
          for (const [name, fault] of breaks(false)) {
            yield* refusing.broken.setFault(fault)
            yield* refusing.healthy.setFault((index) => (index === 0 ? Fault.status(400) : undefined))
            const refused = yield* read(refusing.chain.stream(request))
            // A break before a prefill makes sense is answered by a restart, and that is the request which is refused here.
            assert.include(["none", ...breakReasons], reasonOf(refused.exit), name)
            if (reasonOf(refused.exit) === "none") assert.strictEqual(refused.text, canonical, name)
            else assert.isTrue(canonical.startsWith(refused.text), name)

            yield* ignoring.broken.setFault(fault)
            const ignored = yield* read(ignoring.chain.stream(request))
            assert.strictEqual(reasonOf(ignored.exit), "none", name)
            assert.strictEqual(ignored.text, canonical, name)
          }
        }).pipe(Effect.provide(FetchHttpClient.layer))
      )

      it.live("ends with the error of the break when nobody can finish it", () =>
        Effect.gen(function* () {
          const { broken, chain, healthy } = yield* pair(from, to, "Something else entirely.")
          yield* healthy.setFault(Fault.status(500))
          for (const [name, fault] of breaks(false)) {
            yield* broken.setFault(fault)
            const { exit, finishes, text } = yield* read(chain.stream(request))

            assert.include(breakReasons, reasonOf(exit), name)
            assert.isTrue(canonical.startsWith(text), name)
            assert.strictEqual(finishes, 0, name)
          }
        }).pipe(Effect.provide(FetchHttpClient.layer))
      )

      it.live("recovers again when the recovery breaks", () =>
        Effect.gen(function* () {
          const { broken, chain, healthy } = yield* pair(from, to, obedient)
          yield* broken.setAnswer(obedient)
          yield* broken.setFault((index) => (index === 0 ? Fault.cut(8) : undefined))
          yield* healthy.setFault(Fault.cut(5))
          const { exit, finishes, parts, text } = yield* read(chain.stream(request))

          assert.strictEqual(reasonOf(exit), "none")
          assert.strictEqual(text, canonical)
          assert.strictEqual(finishes, 1)
          assert.isAtLeast(parts.filter((part) => part.type === "served").length, 2)
        }).pipe(Effect.provide(FetchHttpClient.layer))
      )

      it.live("lets go of both when the reader leaves during the recovery", () =>
        Effect.gen(function* () {
          const { broken, chain, healthy } = yield* pair(from, to, obedient)
          yield* broken.setFault(Fault.cut(10))
          yield* healthy.setFault(Fault.silence)
          const fiber = yield* Effect.forkChild(Stream.runDrain(chain.stream(request)))
          yield* healthy.awaitRequests(1)
          yield* Fiber.interrupt(fiber)

          yield* Effect.timeout(healthy.awaitAborted(1), "1 second")
        }).pipe(Effect.provide(FetchHttpClient.layer))
      )
    })
  }
}

const breakReasons = ["StreamCut", "InvalidResponse", "Network", "Overloaded", "ServerError", "Timeout"]
