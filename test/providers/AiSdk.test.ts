import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import type { LanguageModelV4GenerateResult, LanguageModelV4StreamPart } from "@ai-sdk/provider"
import { APICallError } from "@ai-sdk/provider"
import { assert, describe, it } from "@effect/vitest"
import { Fallback, LlmRequest, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { AiSdk } from "@llm-resilience/providers"
import { type Answer, Fault, Upstream } from "@llm-resilience/testing"
import { convertArrayToReadableStream, MockLanguageModelV3, MockLanguageModelV4 } from "ai/test"
import { Duration, Effect, Exit, Fiber, Option, Schema, Stream } from "effect"
import { Tool } from "effect/ai"

const hi = LlmRequest.make({ prompt: "Hi" })
const text = "Grüße aus Zürich, and all the best 👋"

const kind = (error: Provider.Failure) => (error._tag === "LlmUnavailable" ? error._tag : ProviderError.kind(error))

const weather = Tool.make("weather", {
  description: "Tells the weather",
  parameters: Schema.Struct({ city: Schema.String })
})

/** A model of the package for servers with chat completions, in front of a server that misbehaves. */
const served = (answer: Answer.Answer, fault?: Fault.Fault) =>
  Effect.gen(function* () {
    const upstream = yield* Upstream.make({ answer, fault })
    const acme = createOpenAICompatible({
      name: "acme",
      baseURL: upstream.baseUrl,
      apiKey: "secret",
      includeUsage: true
    })
    return { upstream, provider: AiSdk.make(acme("acme-large"), { id: "acme" }) }
  })

const collected = (provider: Provider.Provider, request = hi) =>
  Effect.map(Stream.runCollect(provider.stream(request)), LlmResponse.collect)

const usage = {
  inputTokens: { total: 10, noCache: 4, cacheRead: 6, cacheWrite: undefined },
  outputTokens: { total: 5, text: 2, reasoning: 3 }
}

const finishReason = { unified: "stop", raw: "stop" } as const

const result = (rest: Partial<LanguageModelV4GenerateResult>): LanguageModelV4GenerateResult => ({
  content: [],
  finishReason,
  usage,
  warnings: [],
  ...rest
})

const streaming = (chunks: ReadonlyArray<LanguageModelV4StreamPart>) =>
  AiSdk.make(new MockLanguageModelV4({ doStream: { stream: convertArrayToReadableStream([...chunks]) } }))

describe("AiSdk, over a real package and a real server", () => {
  it.live("gives whole and streamed answers with their usage", () =>
    Effect.gen(function* () {
      const { provider, upstream } = yield* served({ text, usage: { inputTokens: 12, outputTokens: 9 } })

      const whole = yield* provider.generate(hi)
      const streamed = yield* collected(provider)

      assert.strictEqual(whole.text, text)
      assert.strictEqual(whole.usage.inputTokens.total, 12)
      assert.strictEqual(whole.usage.outputTokens.total, 9)
      assert.deepInclude(
        streamed.find((part) => part.type === "text"),
        { text }
      )
      assert.deepInclude(streamed.at(-1), { type: "finish", reason: "stop" })
      assert.strictEqual((yield* upstream.requests).length, 2)
    })
  )

  it.live("asks with tools, settings and the conversation, and reads the call of a tool", () =>
    Effect.gen(function* () {
      const { provider, upstream } = yield* served({ toolCalls: [{ name: "weather", params: { city: "Rome" } }] })
      const request = LlmRequest.make({
        prompt: [
          { role: "system", content: "Be brief." },
          { role: "user", content: "How warm is it?" },
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "of somebody else" },
              { type: "tool-call", id: "call_0", name: "weather", params: { city: "Oslo" } }
            ]
          },
          {
            role: "tool",
            content: [{ type: "tool-result", id: "call_0", name: "weather", isFailure: false, result: "cold" }]
          }
        ],
        tools: [weather],
        toolChoice: "required",
        settings: { maxOutputTokens: 50, temperature: 0.5, stop: ["END"] }
      })

      const whole = yield* provider.generate(request)
      const streamed = yield* collected(provider, request)

      assert.deepStrictEqual(
        whole.toolCalls.map(({ name, params }) => [name, params]),
        [["weather", { city: "Rome" }]]
      )
      assert.strictEqual(whole.finishReason, "tool-calls")
      assert.deepStrictEqual(
        streamed.filter((part) => part.type === "tool-call").map(({ params }) => params),
        [{ city: "Rome" }]
      )
      const [first] = yield* upstream.requests
      const body = JSON.stringify(first?.body)
      assert.deepInclude(first?.body, { max_tokens: 50, temperature: 0.5, stop: ["END"], tool_choice: "required" })
      assert.include(body, '"content":"cold"')
      assert.notInclude(body, "of somebody else")
    })
  )

  it.live("says what went wrong in our words, after one request", () =>
    Effect.gen(function* () {
      const expected: ReadonlyArray<readonly [Fault.Fault, whole: string, streamed: string]> = [
        [Fault.status(503), "Overloaded", "Overloaded"],
        [Fault.status(401), "Authentication", "Authentication"],
        [Fault.status(404), "ModelNotFound", "ModelNotFound"],
        [Fault.status(502, { body: "<html><h1>502 Bad Gateway</h1></html>" }), "ServerError", "ServerError"],
        [Fault.resetBeforeHeaders, "Network", "Network"],
        [Fault.notJson(), "InvalidResponse", "InvalidResponse"],
        [Fault.endEarly(3), "InvalidResponse", "InvalidResponse"],
        [
          Fault.errorFrame(3, { error: { message: "The engine is overloaded", type: "server_error" } }),
          "Overloaded",
          "Overloaded"
        ]
      ]
      for (const [fault, whole, streamed] of expected) {
        const { provider, upstream } = yield* served(text, fault)

        assert.strictEqual(kind(yield* Effect.flip(provider.generate(hi))), whole, fault._tag)
        assert.strictEqual(kind(yield* Effect.flip(collected(provider))), streamed, fault._tag)
        assert.strictEqual((yield* upstream.requests).length, 2, fault._tag)
      }
    })
  )

  it.live("reads the wait that a server asks for", () =>
    Effect.gen(function* () {
      const { provider } = yield* served(text, Fault.status(429, { headers: { "retry-after": "7" } }))

      const error = yield* Effect.flip(provider.generate(hi))

      assert.strictEqual(error._tag, "RateLimited")
      assert.deepStrictEqual(
        error._tag === "RateLimited" ? ProviderError.retryAfter(error) : undefined,
        Duration.seconds(7)
      )
    })
  )

  it.live("takes the connection along when the caller leaves", () =>
    Effect.gen(function* () {
      for (const fault of [Fault.silence, Fault.stall(2)]) {
        for (const ask of ["generate", "stream"] as const) {
          const { provider, upstream } = yield* served(text, fault)
          const call = ask === "generate" ? provider.generate(hi) : Stream.runDrain(provider.stream(hi))
          const fiber = yield* Effect.forkChild(call)
          yield* upstream.awaitRequests(1)
          yield* Effect.sleep("20 millis")
          yield* Fiber.interrupt(fiber)
          yield* Effect.timeout(upstream.awaitAborted(1), "2 seconds")
        }
      }
    })
  )

  it.live("is a step of a chain", () =>
    Effect.gen(function* () {
      const { provider } = yield* served(text, Fault.status(500))
      const backup = Provider.make({
        id: "backup",
        model: "small",
        generate: () => Effect.succeed({ content: LlmResponse.textContent("Hello") })
      })
      const chain = yield* Fallback.make([provider, backup])

      assert.strictEqual((yield* chain.generate(hi)).served.provider, "backup")
    })
  )
})

describe("AiSdk", () => {
  it.effect("keeps everything that has a place", () =>
    Effect.gen(function* () {
      const provider = AiSdk.make(
        new MockLanguageModelV4({
          provider: "acme.chat",
          modelId: "acme-large",
          doGenerate: result({
            content: [
              { type: "reasoning", text: "Hm.", providerMetadata: { acme: { signature: "s" } } },
              { type: "text", text: "Here." },
              { type: "file", mediaType: "image/png", data: { type: "data", data: new Uint8Array([1, 2, 3]) } },
              { type: "file", mediaType: "image/png", data: { type: "data", data: "AQID" } },
              { type: "source", sourceType: "url", id: "1", url: "https://example.com/", title: "Example" },
              { type: "source", sourceType: "url", id: "2", url: "not an address" },
              { type: "source", sourceType: "document", id: "3", mediaType: "application/pdf", title: "Paper" },
              { type: "tool-call", toolCallId: "a", toolName: "weather", input: '{"city":"Rome"}' },
              { type: "tool-call", toolCallId: "b", toolName: "search", input: "{}", providerExecuted: true },
              { type: "custom", kind: "acme.thing" }
            ],
            response: { id: "r1", modelId: "acme-large-2", timestamp: new Date(1_700_000_000_000) }
          })
        })
      )

      const { content, served } = yield* provider.generate(hi)

      assert.strictEqual(served.provider, "acme.chat")
      assert.deepStrictEqual(content, [
        { type: "response-metadata", id: "r1", modelId: "acme-large-2", timestamp: "2023-11-14T22:13:20.000Z" },
        { type: "reasoning", text: "Hm.", metadata: { acme: { signature: "s" } } },
        { type: "text", text: "Here." },
        { type: "file", mediaType: "image/png", data: "AQID" },
        { type: "file", mediaType: "image/png", data: "AQID" },
        { type: "source", sourceType: "url", id: "1", url: "https://example.com/", title: "Example" },
        { type: "source", sourceType: "document", id: "3", mediaType: "application/pdf", title: "Paper" },
        { type: "tool-call", id: "a", name: "weather", params: { city: "Rome" } },
        {
          type: "finish",
          reason: "stop",
          usage: {
            inputTokens: { total: 10, uncached: 4, cacheRead: 6 },
            outputTokens: { total: 5, text: 2, reasoning: 3 }
          }
        }
      ])
    })
  )

  it.effect("gives what a text cites, once", () =>
    Effect.gen(function* () {
      const source = {
        type: "source",
        sourceType: "url",
        id: "1",
        url: "https://example.com/",
        title: "Example"
      } as const
      const other = { ...source, id: "2" }
      const citations = [{ source }, { source: other }]
      const whole = AiSdk.make(
        new MockLanguageModelV4({ doGenerate: result({ content: [source, { type: "text", text: "x", citations }] }) })
      )
      const stream = streaming([
        source,
        { type: "text-start", id: "0" },
        { type: "text-delta", id: "0", delta: "x" },
        { type: "text-end", id: "0", citations },
        { type: "finish", finishReason, usage }
      ])

      const { content } = yield* whole.generate(hi)
      const parts = yield* Stream.runCollect(stream.stream(hi))

      for (const some of [content, parts]) {
        assert.deepStrictEqual(
          some.flatMap((part) => (part.type === "source" ? [part.id] : [])),
          ["1", "2"]
        )
      }
    })
  )

  it.effect("gives the JSON that the model marks among its drafts", () =>
    Effect.gen(function* () {
      const content = ["draft", '{"city":"Rome"}'].map((text) => ({ type: "text" as const, text }))
      const model = () =>
        AiSdk.make(
          new MockLanguageModelV4({ doGenerate: result({ content, structuredOutputText: '{"city":"Rome"}' }) })
        )
      const schema = Schema.Struct({ city: Schema.String })
      const json = LlmRequest.make({ prompt: "Where?", responseFormat: { type: "json", objectName: "a", schema } })

      assert.strictEqual((yield* model().generate(json)).text, '{"city":"Rome"}')
      assert.strictEqual((yield* model().generate(hi)).text, 'draft{"city":"Rome"}')
    })
  )

  it.effect("reads a stream, and leaves out what it does not know", () =>
    Effect.gen(function* () {
      const provider = streaming([
        { type: "stream-start", warnings: [] },
        { type: "ping" },
        { type: "response-metadata", id: "r1", modelId: "m" },
        { type: "reasoning-start", id: "0" },
        { type: "reasoning-delta", id: "0", delta: "Hm." },
        { type: "reasoning-end", id: "0", providerMetadata: { acme: { signature: "s" } } },
        { type: "tool-input-start", id: "b", toolName: "search", providerExecuted: true },
        { type: "tool-input-delta", id: "b", delta: "{}" },
        { type: "tool-input-end", id: "b" },
        { type: "tool-call", toolCallId: "b", toolName: "search", input: "{}", providerExecuted: true },
        { type: "tool-input-start", id: "a", toolName: "weather" },
        { type: "tool-input-delta", id: "a", delta: '{"city":"Rome"}' },
        { type: "tool-input-end", id: "a" },
        { type: "tool-call", toolCallId: "a", toolName: "weather", input: '{"city":"Rome"}' },
        { type: "raw", rawValue: {} },
        // A part of a version to come.
        { type: "hologram" } as unknown as LanguageModelV4StreamPart,
        { type: "finish", finishReason: { unified: "tool-calls", raw: "x" }, usage }
      ])

      const parts = yield* Stream.runCollect(provider.stream(hi))

      assert.deepStrictEqual(
        parts.map(({ type }) => type),
        [
          "response-metadata",
          "reasoning-start",
          "reasoning-delta",
          "reasoning-end",
          "tool-params-start",
          "tool-params-delta",
          "tool-params-end",
          "tool-call",
          "finish"
        ]
      )
    })
  )

  it.effect("takes an error inside a stream for what it says, and a stream without an end for cut", () =>
    Effect.gen(function* () {
      const said = { type: "text-delta", id: "0", delta: "Hello" } as const
      const cases: ReadonlyArray<readonly [LanguageModelV4StreamPart | undefined, string]> = [
        [{ type: "error", error: { type: "overloaded_error", message: "Overloaded" } }, "Overloaded"],
        [{ type: "error", error: "Rate limit reached. Please try again in 2s." }, "RateLimited"],
        [{ type: "error", error: { error: { code: "insufficient_quota" } } }, "QuotaExhausted"],
        [{ type: "error", error: Object.assign(new Error("read"), { code: "ECONNRESET" }) }, "Network"],
        [{ type: "finish", finishReason: { unified: "interrupted", raw: undefined }, usage }, "StreamCut"],
        [{ type: "finish", finishReason: { unified: "error", raw: "x" }, usage }, "ServerError"],
        [undefined, "StreamCut"]
      ]
      for (const [last, expected] of cases) {
        const provider = streaming([{ type: "text-start", id: "0" }, said, ...(last === undefined ? [] : [last])])

        assert.strictEqual(kind(yield* Effect.flip(Stream.runDrain(provider.stream(hi)))), expected)
      }
    })
  )

  it.effect("says what errors of the AI SDK mean", () =>
    Effect.gen(function* () {
      const named = (name: string, message = "x") => Object.assign(new Error(message), { name })
      const call = (statusCode: number | undefined, responseBody: string, cause?: unknown) =>
        new APICallError({
          message: "failed",
          url: "https://example.com",
          requestBodyValues: {},
          responseBody,
          responseHeaders: { "X-Request-Id": "req_1" },
          ...(statusCode === undefined ? undefined : { statusCode }),
          cause
        })
      const cases: ReadonlyArray<readonly [unknown, string]> = [
        [call(429, '{"error":{"code":"insufficient_quota"}}'), "QuotaExhausted"],
        [call(400, '{"error":{"message":"maximum context length is 10"}}'), "ContextLengthExceeded"],
        [call(529, ""), "Overloaded"],
        [call(undefined, "", { code: "ECONNREFUSED" }), "Network"],
        [call(undefined, "", { code: "UND_ERR_HEADERS_TIMEOUT" }), "Timeout"],
        [named("AI_LoadAPIKeyError"), "Authentication"],
        [named("AI_NoSuchModelError"), "ModelNotFound"],
        [named("AI_UnsupportedFunctionalityError"), "InvalidRequest"],
        [named("AI_JSONParseError"), "InvalidResponse"],
        [named("TimeoutError"), "Timeout"],
        [new Error("out of luck"), "ServerError"],
        [undefined, "ServerError"]
      ]
      for (const [thrown, expected] of cases) {
        const provider = AiSdk.make(new MockLanguageModelV4({ doGenerate: () => Promise.reject(thrown) }))

        const error = yield* Effect.flip(provider.generate(hi))

        assert.strictEqual(kind(error), expected, String(thrown))
        assert.isTrue(error._tag !== "APIError" || error.cause === undefined, String(thrown))
      }
    })
  )

  it.effect("survives a model that keeps to no type", () =>
    Effect.gen(function* () {
      for (const nonsense of [
        null,
        7,
        {},
        { content: null },
        { content: [null] },
        { content: [{ type: "text", text: "x" }] }
      ]) {
        const model = new MockLanguageModelV4({ doGenerate: () => Promise.resolve(nonsense as never) })

        const exit = yield* Effect.exit(AiSdk.make(model).generate(hi))
        const error = Option.getOrUndefined(Exit.findErrorOption(exit))

        assert.isTrue(Exit.isSuccess(exit) || ProviderError.isProviderError(error))
        assert.isTrue(error?._tag !== "APIError" || error.cause === undefined, "no defect")
      }
    })
  )

  it.effect("takes models of the version before, and no other", () =>
    Effect.gen(function* () {
      const before = new MockLanguageModelV3({
        doGenerate: result({ content: [{ type: "text", text: "Hello" }] }) as never
      })
      const request = LlmRequest.make({
        prompt: [{ role: "user", content: [{ type: "file", mediaType: "image/png", data: new Uint8Array([1]) }] }]
      })

      assert.strictEqual((yield* AiSdk.make(before).generate(request)).text, "Hello")
      assert.deepInclude(before.doGenerateCalls[0]?.prompt[0]?.content[0], { type: "file", data: "AQ==" })
      assert.throws(
        () => AiSdk.make({ specificationVersion: "v2", provider: "old", modelId: "m" } as never),
        "AiSdk.make: model must be of specification version v3 or v4, got v2"
      )
    })
  )

  it.effect("provides a layer", () =>
    Effect.gen(function* () {
      const model = new MockLanguageModelV4({ provider: "acme", modelId: "gpt-5" })

      const provider = yield* Effect.provide(Provider.Provider, AiSdk.layer(model))

      assert.strictEqual(provider.id, "acme")
      assert.strictEqual(provider.capabilities.contextWindow, 400_000)
    })
  )
})
