import { assert, describe, it } from "@effect/vitest"
import { NodeHttpClient } from "@effect/platform-node"
import { LlmRequest, LlmResponse, ProviderError } from "@llm-resilience/core"
import { Fault, Upstream } from "@llm-resilience/testing"
import { Duration, Effect, Fiber, Layer, Redacted, type Scope, Stream } from "effect"
import { FetchHttpClient, HttpClient, HttpClientError } from "effect/http"
import { adapters, type Protocol, protocols } from "../support/adapters.ts"

const hi = LlmRequest.make({ prompt: "Hi" })

const clients = {
  fetch: FetchHttpClient.layer,
  undici: NodeHttpClient.layerUndici,
  nodeHttp: NodeHttpClient.layerNodeHttp
}

const cases = protocols.flatMap((protocol) =>
  (Object.keys(clients) as Array<keyof typeof clients>).map((client) => [protocol, client] as const)
)

const text = "Grüße aus Zürich, and all the best 👋"

const setup = (protocol: Protocol, fault?: Fault.Fault, options?: Upstream.Options) =>
  Effect.gen(function* () {
    const upstream = yield* Upstream.make({ answer: text, fault, apiKey: "secret", ...options })
    const provider = yield* adapters[protocol]({
      model: "model-1",
      apiKey: Redacted.make("secret"),
      baseUrl: upstream.baseUrl
    })
    return { upstream, provider }
  })

const kindOf = (error: unknown) =>
  ProviderError.isProviderError(error) ? ProviderError.kind(error) : `not a provider error: ${String(error)}`

/** What comes of a call, whole and streamed: the text or the kind of error, and the text before the error. */
const outcomes = (protocol: Protocol, fault?: Fault.Fault) =>
  Effect.gen(function* () {
    const { provider, upstream } = yield* setup(protocol, fault)
    const whole = yield* Effect.match(provider.generate(hi), {
      onFailure: kindOf,
      onSuccess: (response) => response.text
    })
    let said = ""
    const streamed = yield* Effect.match(
      Stream.runForEach(provider.stream(hi), (part) =>
        Effect.sync(() => {
          if (part.type === "text-delta") said += part.delta
        })
      ),
      { onFailure: kindOf, onSuccess: () => said }
    )
    const requests = yield* upstream.requests
    return { whole, streamed, said, requests: requests.length }
  })

describe.each(cases)("%s over %s", (protocol, client) => {
  const it_ = <A, E>(name: string, effect: Effect.Effect<A, E, HttpClient.HttpClient | Scope.Scope>) =>
    it.live(name, () => Effect.provide(effect, clients[client]))

  it_(
    "asks once and gives the answer",
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* outcomes(protocol), { whole: text, streamed: text, said: text, requests: 2 })
    })
  )

  it_(
    "puts together what arrives in splinters",
    Effect.gen(function* () {
      for (const bytes of [1, 3, 7]) {
        const { streamed, whole } = yield* outcomes(protocol, Fault.trickle(bytes))

        assert.deepStrictEqual([whole, streamed], [text, text])
      }
    })
  )

  it_(
    "takes an answer without its terminator",
    Effect.gen(function* () {
      const { streamed, whole } = yield* outcomes(protocol, Fault.missingTerminator)

      assert.deepStrictEqual([whole, streamed], [text, text])
    })
  )

  it_(
    "never asks twice, and says what went wrong",
    Effect.gen(function* () {
      const expected: ReadonlyArray<readonly [Fault.Fault, whole: string, streamed: string]> = [
        [Fault.status(protocol === "anthropic" ? 529 : 503), "Overloaded", "Overloaded"],
        [Fault.status(429), "RateLimited", "RateLimited"],
        [Fault.status(401), "Authentication", "Authentication"],
        [Fault.resetBeforeHeaders, "Network", "Network"],
        [Fault.empty, "InvalidResponse", "StreamCut"],
        [Fault.notJson(), "InvalidResponse", "InvalidResponse"],
        [Fault.errorUnder200(), "Overloaded", "Overloaded"]
      ]
      for (const [fault, whole, streamed] of expected) {
        assert.deepStrictEqual(yield* outcomes(protocol, fault), { whole, streamed, said: "", requests: 2 }, fault._tag)
      }
    })
  )

  it_(
    "gives what came before a stream broke, and never takes it for the answer",
    Effect.gen(function* () {
      const expected: ReadonlyArray<readonly [Fault.Fault, whole: string, streamed: string]> = [
        [Fault.cut(3), "StreamCut", "StreamCut"],
        [Fault.endEarly(3), "InvalidResponse", "StreamCut"],
        [Fault.malformedChunk(3), "InvalidResponse", "InvalidResponse"],
        [Fault.errorFrame(3), "Overloaded", "Overloaded"],
        [Fault.missingFinish, "StreamCut", "StreamCut"]
      ]
      for (const [fault, whole, streamed] of expected) {
        const outcome = yield* outcomes(protocol, fault)

        assert.deepStrictEqual([outcome.whole, outcome.streamed], [whole, streamed], fault._tag)
        assert.isAbove(outcome.said.length, 0, fault._tag)
        assert.isTrue(text.startsWith(outcome.said), fault._tag)
      }
    })
  )

  it_(
    "does not believe a body that is shorter than promised, but a stream that finished",
    Effect.gen(function* () {
      const { streamed, whole } = yield* outcomes(protocol, Fault.wrongContentLength())

      assert.deepStrictEqual([whole, streamed], ["StreamCut", text])
    })
  )

  it_(
    "takes the connection along when the caller leaves",
    Effect.gen(function* () {
      const leave = (fault: Fault.Fault, ask: "generate" | "stream") =>
        Effect.gen(function* () {
          const { provider, upstream } = yield* setup(protocol, fault)
          const call = ask === "generate" ? provider.generate(hi) : Stream.runDrain(provider.stream(hi))
          const fiber = yield* Effect.forkChild(call)
          yield* upstream.awaitRequests(1)
          yield* Effect.sleep("20 millis")
          yield* Fiber.interrupt(fiber)
          yield* upstream.awaitAborted(1)
        })

      yield* leave(Fault.silence, "generate")
      yield* leave(Fault.silence, "stream")
      yield* leave(Fault.stall(2), "generate")
      yield* leave(Fault.stall(2), "stream")
    })
  )

  it_(
    "takes the connection along when the reader has enough",
    Effect.gen(function* () {
      const { provider, upstream } = yield* setup(protocol, Fault.stall(2))

      const parts = yield* Stream.runCollect(
        Stream.takeUntil(provider.stream(hi), (part) => part.type === "text-delta")
      )

      assert.isTrue(LlmResponse.isContent(parts[parts.length - 1] ?? { type: "text-end", id: "" }))
      yield* upstream.awaitAborted(1)
    })
  )

  it_(
    "keeps concurrent answers apart",
    Effect.gen(function* () {
      const { provider } = yield* setup(protocol, undefined, { answer: (question) => `You said ${question.text}.` })
      const ask = (index: number) =>
        Effect.map(Stream.runCollect(provider.stream(LlmRequest.make({ prompt: `number ${index}` }))), (parts) =>
          parts.reduce((said, part) => (part.type === "text-delta" ? said + part.delta : said), "")
        )
      const indexes = Array.from({ length: 20 }, (_, index) => index)

      const said = yield* Effect.forEach(indexes, ask, { concurrency: "unbounded" })

      assert.deepStrictEqual(
        said,
        indexes.map((index) => `You said number ${index}.`)
      )
    })
  )

  it_(
    "fails when nobody is there",
    Effect.gen(function* () {
      const { provider, upstream } = yield* setup(protocol)
      yield* upstream.down

      const error = yield* Effect.flip(provider.generate(hi))

      assert.deepInclude(error, { reason: "Network", description: "The connection failed (ECONNREFUSED)" })
    })
  )
})

describe.each(protocols)("%s over a transport that gives up", (protocol) => {
  const failing = (cause: unknown) =>
    Layer.succeed(
      HttpClient.HttpClient,
      HttpClient.make((request) =>
        Effect.fail(
          new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) })
        )
      )
    )

  it.live.each([
    ["connecting", { cause: { code: "UND_ERR_CONNECT_TIMEOUT" } }, { _tag: "Timeout", kind: "connect" }],
    ["connecting by several addresses", { errors: [{ code: "ETIMEDOUT" }] }, { _tag: "Timeout", kind: "connect" }],
    ["waiting", new Error("x", { cause: { code: "UND_ERR_HEADERS_TIMEOUT" } }), { _tag: "Timeout", kind: "attempt" }],
    [
      "finding the name",
      { code: "ENOTFOUND" },
      { reason: "Network", description: "The connection failed (ENOTFOUND)" }
    ],
    ["for no reason", "secret", { reason: "Network", description: "The connection failed" }]
  ] as const)("%s", ([_, cause, expected]) =>
    Effect.gen(function* () {
      const provider = yield* adapters[protocol]({ model: "model-1" })

      const error = yield* Effect.flip(provider.generate(hi))

      assert.deepInclude(error, expected as object)
      assert.isTrue(error._tag !== "Timeout" || Duration.isFinite(error.after))
    }).pipe(Effect.provide(failing(cause)))
  )
})
