import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, LlmRequest, LlmResilience, type LlmResponse, Provider, Retry } from "@llm-resilience/core"
import { OpenAiCompatible } from "@llm-resilience/providers"
import { Fault, Upstream } from "@llm-resilience/testing"
import { Effect, Exit, Fiber, Redacted, Stream } from "effect"
import { FetchHttpClient } from "effect/http"
import { adapters, type Protocol, protocols } from "./support/adapters.ts"

// What goes wrong on the wire, end to end: real servers, real HTTP, the real adapters and the standard policies.

const primaryText = "The quick brown fox jumps over the lazy dog."
const backupText = "Un renard brun saute par-dessus le chien paresseux."
const request = LlmRequest.make({ prompt: "Tell me about the fox", deadline: "3 seconds" })

const primaryOf = (protocol: Protocol, baseUrl: string) =>
  adapters[protocol]({ id: "primary", model: "claude-3-opus", baseUrl, apiKey: Redacted.make("secret-key") })

const policy = LlmResilience.standard({
  timeouts: { attempt: "600 millis", firstToken: "300 millis", idle: "200 millis" },
  retry: { schedule: Retry.exponential({ retries: 1, base: "10 millis" }) }
})

const setUp = Effect.fnUntraced(function* (wire: Protocol) {
  const primary = yield* Upstream.make({ answer: primaryText, tokenEvery: "1 milli" })
  const backup = yield* Upstream.make({ answer: backupText })
  const provider = yield* primaryOf(wire, primary.baseUrl)
  const other = yield* OpenAiCompatible.make({ id: "backup", model: "gpt-4o-mini", baseUrl: backup.baseUrl })
  const resilience = yield* LlmResilience.make({ policy, steps: [{ provider }, { provider: other }] })
  return { primary, resilience }
})

const read = (stream: Stream.Stream<LlmResponse.LlmStreamPart, Provider.Failure>) => {
  const parts: Array<LlmResponse.LlmStreamPart> = []
  return Effect.map(Effect.exit(Stream.runForEach(stream, (part) => Effect.sync(() => parts.push(part)))), (exit) => ({
    exit,
    text: parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join(""),
    starts: parts.filter((part) => part.type === "text-start").length,
    ends: parts.filter((part) => part.type === "finish").length
  }))
}

const misbehaviours: ReadonlyArray<readonly [string, Fault.Fault]> = [
  ["500", Fault.status(500)],
  ["502 with HTML", Fault.status(502, { body: "<html><h1>502 Bad Gateway</h1></html>" })],
  ["503", Fault.status(503)],
  ["529", Fault.status(529)],
  ["429 with a short Retry-After", Fault.status(429, { headers: { "retry-after-ms": "30" } })],
  ["429 with a long Retry-After", Fault.status(429, { headers: { "retry-after": "3600" } })],
  ["401", Fault.status(401)],
  ["403", Fault.status(403)],
  ["404", Fault.status(404)],
  ["reset before headers", Fault.resetBeforeHeaders],
  ["silence", Fault.silence],
  ["slow first token", Fault.slowFirstToken("5 seconds")],
  ["stall before content", Fault.stall(0)],
  ["stall", Fault.stall(3)],
  ["cut before content", Fault.cut(0)],
  ["cut", Fault.cut(3)],
  ["clean end before content", Fault.endEarly(0)],
  ["clean end without finish", Fault.endEarly(3)],
  ["malformed chunk before content", Fault.malformedChunk(0)],
  ["malformed chunk", Fault.malformedChunk(3)],
  ["missing finish", Fault.missingFinish],
  ["missing terminator", Fault.missingTerminator],
  ["error under a 200", Fault.errorUnder200()],
  ["error frame before content", Fault.errorFrame(0)],
  ["error frame", Fault.errorFrame(3)],
  ["wrong content length", Fault.wrongContentLength(10)],
  ["trickling bytes", Fault.trickle(64, "1 milli")],
  ["empty body", Fault.empty],
  ["HTML under a 200", Fault.notJson()]
]

for (const wire of protocols) {
  describe(`A primary that speaks ${wire}`, () => {
    for (const [name, fault] of misbehaviours) {
      it.live(`${name}: one complete answer or one typed error, whole and streamed`, () =>
        Effect.gen(function* () {
          const { primary, resilience } = yield* setUp(wire)
          yield* primary.setFault(fault)
          const started = performance.now()

          const whole = yield* Effect.exit(resilience.generate(request))
          // With a healthy backup a whole answer always comes, and it is one of the two, complete.
          assert.isTrue(Exit.isSuccess(whole), `whole answer of ${name}`)
          if (Exit.isSuccess(whole)) {
            const { served, text } = whole.value
            assert.strictEqual(text, served.provider === "primary" ? primaryText : backupText)
          }

          const { ends, exit, starts, text } = yield* read(resilience.stream(request))
          if (Exit.isSuccess(exit)) {
            assert.include([primaryText, backupText], text)
            assert.strictEqual(starts, 1)
            assert.strictEqual(ends, 1)
          } else {
            const error = Exit.findErrorOption(exit)
            assert.include(["APIError", "Timeout"], error._tag === "Some" ? error.value._tag : "a defect")
            assert.isTrue(primaryText.startsWith(text), `"${text}" is the beginning of one answer`)
            assert.isAbove(text.length, 0)
            assert.strictEqual(ends, 0)
          }

          assert.isBelow(performance.now() - started, 7000)
          assert.notInclude(JSON.stringify([whole, exit]), "secret-key")
        }).pipe(Effect.provide(FetchHttpClient.layer))
      )
    }

    it.live(
      "sees its request aborted when the caller leaves, whole and streamed, and nothing is counted against it",
      () =>
        Effect.gen(function* () {
          const { primary, resilience } = yield* setUp(wire)
          yield* primary.setFault(Fault.stall(2))
          const patient = { ...request, deadline: undefined }
          const calls = [resilience.generate(patient), Stream.runDrain(resilience.stream(patient))]
          for (const [index, call] of calls.entries()) {
            const fiber = yield* Effect.forkChild(call)
            yield* primary.awaitRequests(index + 1)
            yield* Effect.sleep("30 millis")
            const left = Date.now()
            yield* Fiber.interrupt(fiber)
            yield* Effect.timeout(primary.awaitAborted(index + 1), "1 second")
            const abortedAt = (yield* primary.requests)[index]?.abortedAt ?? Infinity
            assert.isAtMost(abortedAt - left, 100)
          }

          const state = yield* resilience.circuits.get("primary")?.state ?? Effect.die("no circuit")
          assert.deepStrictEqual(state, { _tag: "Closed", failures: 0 })
        }).pipe(Effect.provide(FetchHttpClient.layer))
    )
  })
}

describe("A thousand concurrent calls with a dead primary", () => {
  const patient = { ...request, deadline: undefined }
  const thousand = (resilience: LlmResilience.LlmResilience) =>
    Effect.forEach(Array.from({ length: 1000 }), () => resilience.generate(patient), { concurrency: "unbounded" })

  it.live(
    "are all answered by the backup; the dead one sees no more than its breaker lets through; nothing is left behind",
    () =>
      Effect.gen(function* () {
        const [primary, backup] = yield* Effect.all([Upstream.make(), Upstream.make({ answer: backupText })])
        yield* primary.setFault(Fault.status(503))
        const before = resources()

        yield* Effect.scoped(
          Effect.gen(function* () {
            const steps = [
              { provider: yield* primaryOf("openai", primary.baseUrl) },
              { provider: yield* OpenAiCompatible.make({ id: "backup", model: "m", baseUrl: backup.baseUrl }) }
            ] as const
            const resilience = yield* LlmResilience.make({ steps })
            const circuit = yield* Effect.fromNullishOr(resilience.circuits.get("primary"))
            // The first calls find out; what the thousand then meet is an open circuit.
            while ((yield* circuit.state)._tag === "Closed") yield* resilience.generate(patient)
            assert.strictEqual((yield* primary.requests).length, 5)

            const answers = yield* thousand(resilience)

            assert.strictEqual(answers.filter(({ text }) => text === backupText).length, 1000)
            assert.strictEqual((yield* primary.requests).length, 5)
            assert.strictEqual(yield* Effect.withFiber((fiber) => Effect.succeed(childrenOf(fiber))), 0)
          }).pipe(Effect.provide(NodeHttpClient.layerUndici))
        )

        yield* Effect.repeat(Effect.sleep("10 millis"), {
          while: () => Effect.map(backup.openConnections, (open) => open > 0),
          times: 100
        })
        assert.strictEqual(yield* backup.openConnections, 0)
        assert.strictEqual(yield* primary.openConnections, 0)
        assert.isAtMost(resources(), before)
      }),
    60_000
  )

  it.live(
    "that come before any breaker could know are all answered all the same, and hardly one is tried twice",
    () =>
      Effect.gen(function* () {
        const [primary, backup] = yield* Effect.all([Upstream.make(), Upstream.make({ answer: backupText })])
        yield* primary.setFault(Fault.status(503))
        const resilience = yield* LlmResilience.make({
          steps: [
            { provider: yield* primaryOf("openai", primary.baseUrl) },
            { provider: yield* OpenAiCompatible.make({ id: "backup", model: "m", baseUrl: backup.baseUrl }) }
          ]
        })

        const answers = yield* thousand(resilience)

        assert.strictEqual(answers.filter(({ text }) => text === backupText).length, 1000)
        // Only those that failed before the fifth failure opened the circuit may have been retried.
        assert.isAtMost((yield* primary.requests).length, 1000 + 4 * 2)
      }).pipe(Effect.provide(FetchHttpClient.layer)),
    60_000
  )
})

const childrenOf = (fiber: object): number => {
  const children = "_children" in fiber ? fiber._children : undefined
  return children instanceof Set ? children.size : 0
}

/** Timers and client sockets that keep the process alive. */
const resources = (): number =>
  process.getActiveResourcesInfo().filter((kind) => kind === "Timeout" || kind === "TCPSocketWrap").length

describe("A breaker over the wire", () => {
  it.live("probes once after its time and brings the recovered primary back", () =>
    Effect.gen(function* () {
      const primary = yield* Upstream.make({ answer: primaryText })
      const provider = yield* primaryOf("openai", primary.baseUrl)
      const backup = Provider.make({
        id: "backup",
        model: "m",
        generate: () => Effect.succeed({ content: [{ type: "text", text: backupText }] })
      })
      const resilience = yield* LlmResilience.make({
        policy: LlmResilience.standard({
          retry: "off",
          circuitBreaker: { trip: CircuitBreaker.consecutive(2), openFor: "200 millis" }
        }),
        steps: [{ provider }, { provider: backup, policy: LlmResilience.standard() }]
      })
      const ask = Effect.map(resilience.generate(request), ({ text }) => text)
      yield* primary.down
      for (let calls = 0; calls < 4; calls++) assert.strictEqual(yield* ask, backupText)
      yield* primary.up
      assert.strictEqual(yield* ask, backupText)
      assert.strictEqual((yield* primary.requests).length, 0)

      yield* Effect.sleep("250 millis")
      assert.strictEqual(yield* ask, primaryText)
      assert.strictEqual(yield* ask, primaryText)
    }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})
