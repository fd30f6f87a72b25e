import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { Gemini } from "@llm-resilience/providers"
import { Duration, Effect, Exit, Layer, Redacted, Schema, Stream } from "effect"
import { Tool } from "effect/ai"
import { FetchHttpClient, HttpClient } from "effect/http"
import { serve, sse } from "./server.ts"

const hi = LlmRequest.make({ prompt: "Hi" })

const provider = (options: Partial<Gemini.Options>) =>
  Effect.provide(Gemini.make({ model: "gemini-2.5-flash", ...options }), FetchHttpClient.layer)

const chunk = (parts: ReadonlyArray<unknown>, finishReason?: string, rest: object = {}) => ({
  candidates: [
    { content: { role: "model", parts }, ...(finishReason === undefined ? {} : { finishReason }), index: 0 }
  ],
  usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 7, thoughtsTokenCount: 3, totalTokenCount: 15 },
  modelVersion: "gemini-2.5-flash-001",
  responseId: "r1",
  ...rest
})

const generated = (body: unknown, request = hi, options: Partial<Gemini.Options> = {}) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: typeof body === "string" ? body : JSON.stringify(body) })
    return yield* (yield* provider({ baseUrl: server.baseUrl, ...options })).generate(request)
  })

const sent = (request: LlmRequest.Input, options: Partial<Gemini.Options> = {}) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: JSON.stringify(chunk([{ text: "Hello" }], "STOP")) })
    yield* (yield* provider({ baseUrl: server.baseUrl, ...options })).generate(LlmRequest.make(request))
    const received = server.received[0]
    assert(received !== undefined)
    return { ...received, body: JSON.parse(JSON.stringify(received.body)) }
  })

const streamed = (body: string, request = hi) =>
  Effect.gen(function* () {
    const server = yield* serve({ headers: { "content-type": "text/event-stream" }, body })
    const gemini = yield* provider({ baseUrl: server.baseUrl })
    const parts: Array<LlmResponse.LlmStreamPart> = []
    const exit = yield* Effect.exit(
      Stream.runForEach(gemini.stream(request), (part) => Effect.sync(() => parts.push(part)))
    )
    const error = Exit.findErrorOption(exit)
    return { parts, error: error._tag === "None" ? undefined : error.value, url: server.received[0]?.url }
  })

const kind = (error: unknown) => (ProviderError.isProviderError(error) ? ProviderError.kind(error) : String(error))

const weather = Tool.make("weather", {
  description: "Tells the weather",
  parameters: Schema.Struct({ city: Schema.String })
})

const responseFormat = { type: "json" as const, objectName: "answer", schema: Schema.Struct({ city: Schema.String }) }

const toolTurn: LlmRequest.Input["prompt"] = [
  { role: "user", content: "How warm is it?" },
  {
    role: "assistant",
    content: [
      { type: "reasoning", text: "Hm." },
      { type: "text", text: "Let me look.", options: { gemini: { thoughtSignature: "t" } } },
      { type: "tool-call", id: "call_0", name: "weather", params: { city: "Rome" } },
      { type: "tool-call", id: "call_1", name: "weather", params: { city: "Oslo" } }
    ]
  },
  {
    role: "tool",
    content: [
      { type: "tool-result", id: "call_0", name: "weather", isFailure: false, result: { degrees: 21 } },
      { type: "tool-result", id: "call_1", name: "weather", isFailure: true, result: "broken" }
    ]
  }
]

describe("Gemini", () => {
  describe("asks", () => {
    it.live("with the model in the address and the settings in their place", () =>
      Effect.gen(function* () {
        const { body, headers, url } = yield* sent(
          {
            prompt: [
              { role: "system", content: "Be brief." },
              {
                role: "user",
                content: [
                  { type: "text", text: "What is this?" },
                  { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
                  { type: "file", mediaType: "application/pdf", data: new URL("https://example.com/a.pdf") },
                  { type: "file", mediaType: "video/mp4", data: "gs://bucket/film.mp4" }
                ]
              }
            ],
            settings: {
              maxOutputTokens: 10,
              temperature: 2,
              topP: 0.5,
              stop: ["END"],
              seed: 1,
              providerOptions: {
                gemini: { generationConfig: { thinkingConfig: { thinkingBudget: 0 } }, safetySettings: [] }
              }
            }
          },
          { model: "models/gemini-2.5-flash", apiKey: Redacted.make("the-key") }
        )

        assert.strictEqual(url, "/v1/models/gemini-2.5-flash:generateContent")
        assert.strictEqual(headers["x-goog-api-key"], "the-key")
        assert.deepStrictEqual(body, {
          systemInstruction: { parts: [{ text: "Be brief." }] },
          contents: [
            {
              role: "user",
              parts: [
                { text: "What is this?" },
                { inlineData: { mimeType: "image/png", data: "AQID" } },
                { fileData: { mimeType: "application/pdf", fileUri: "https://example.com/a.pdf" } },
                { fileData: { mimeType: "video/mp4", fileUri: "gs://bucket/film.mp4" } }
              ]
            }
          ],
          generationConfig: {
            maxOutputTokens: 10,
            temperature: 2,
            topP: 0.5,
            stopSequences: ["END"],
            seed: 1,
            thinkingConfig: { thinkingBudget: 0 }
          },
          safetySettings: []
        })
      })
    )

    it.live("with tools, their results in order, and signatures where the model insists on them", () =>
      Effect.gen(function* () {
        const old = yield* sent({ prompt: toolTurn, tools: [weather] })
        const young = yield* sent({ prompt: toolTurn, tools: [weather] }, { model: "gemini-3-pro-preview" })

        const calls = [
          { functionCall: { name: "weather", args: { city: "Rome" } } },
          { functionCall: { name: "weather", args: { city: "Oslo" } } }
        ]
        assert.deepStrictEqual(old.body["contents"].slice(1), [
          { role: "model", parts: [{ text: "Let me look.", thoughtSignature: "t" }, ...calls] },
          {
            role: "user",
            parts: [
              { functionResponse: { name: "weather", response: { output: '{"degrees":21}' } } },
              { functionResponse: { name: "weather", response: { error: "broken" } } }
            ]
          }
        ])
        assert.deepStrictEqual(young.body["contents"][1].parts.slice(1), [
          { ...calls[0], thoughtSignature: "skip_thought_signature_validator" },
          calls[1]
        ])
        assert.deepStrictEqual(
          old.body["tools"][0].functionDeclarations.map(({ name }: { readonly name: string }) => name),
          ["weather"]
        )
      })
    )

    it.live("for tools by choice", () =>
      Effect.gen(function* () {
        for (const [toolChoice, expected] of [
          ["auto", { mode: "AUTO" }],
          ["none", { mode: "NONE" }],
          ["required", { mode: "ANY" }],
          [{ tool: "weather" }, { mode: "ANY", allowedFunctionNames: ["weather"] }]
        ] as const) {
          const { body } = yield* sent({ prompt: "Hi", tools: [weather], toolChoice })

          assert.deepStrictEqual(body["toolConfig"], { functionCallingConfig: expected })
        }
      })
    )

    it.live("for JSON by its schema, and beside tools through a function where the model takes only one of them", () =>
      Effect.gen(function* () {
        const alone = yield* sent({ prompt: "Where?", responseFormat })
        const beside = yield* sent({ prompt: "Where?", responseFormat, tools: [weather] })
        const none = yield* sent({ prompt: "Where?", responseFormat, tools: [weather], toolChoice: "none" })
        const young = yield* sent({ prompt: "Where?", responseFormat, tools: [weather] }, { model: "gemini-3-flash" })

        assert.strictEqual(alone.body["generationConfig"].responseMimeType, "application/json")
        assert.strictEqual(alone.body["generationConfig"].responseJsonSchema.type, "object")
        assert.isUndefined(beside.body["generationConfig"])
        assert.strictEqual(beside.body["tools"][0].functionDeclarations[1].name, "answer")
        assert.deepStrictEqual(beside.body["toolConfig"].functionCallingConfig, { mode: "ANY" })
        assert.deepStrictEqual(none.body["toolConfig"].functionCallingConfig.allowedFunctionNames, ["answer"])
        assert.strictEqual(young.body["generationConfig"].responseMimeType, "application/json")

        const request = LlmRequest.make({ prompt: "Where?", responseFormat, tools: [weather] })
        const call = chunk([{ functionCall: { name: "answer", args: { city: "Rome" } } }], "STOP")
        const whole = yield* generated(call, request)
        assert.strictEqual(whole.text, '{"city":"Rome"}')
        assert.strictEqual(whole.finishReason, "stop")
      })
    )

    it.live("with a token that is asked for each time, and kept out of errors", () =>
      Effect.gen(function* () {
        const server = yield* serve({ status: 401, body: JSON.stringify({ error: { message: "no token-number-1" } }) })
        let tokens = 0
        const gemini = yield* provider({
          baseUrl: server.baseUrl,
          token: Effect.sync(() => Redacted.make(`token-number-${++tokens}`))
        })
        const error = yield* Effect.flip(gemini.generate(hi))
        yield* Effect.flip(Stream.runDrain(gemini.stream(hi)))
        const without = yield* provider({ baseUrl: server.baseUrl, token: Effect.fail("expired: secret") })

        assert.deepInclude(error, { reason: "Authentication", description: "no <redacted>" })
        assert.deepStrictEqual(
          server.received.map(({ headers }) => headers["authorization"]),
          ["Bearer token-number-1", "Bearer token-number-2"]
        )
        assert.deepInclude(yield* Effect.flip(without.generate(hi)), {
          reason: "Authentication",
          description: "There is no token"
        })
      })
    )
  })

  describe("reads whole answers", () => {
    it.live("with thoughts, text, files, calls, grounding and usage", () =>
      Effect.gen(function* () {
        const { content } = yield* generated(
          chunk(
            [
              { text: "Hm.", thought: true },
              { text: "He" },
              { text: "llo", thoughtSignature: "t" },
              { inlineData: { mimeType: "image/png", data: "AQID" } },
              { functionCall: { name: "weather", args: { city: "Rome" } }, thoughtSignature: "u" },
              { functionCall: { name: "weather" } },
              { executableCode: { code: "1" } }
            ],
            "STOP",
            {
              usageMetadata: {
                promptTokenCount: 5,
                cachedContentTokenCount: 2,
                candidatesTokenCount: 7,
                thoughtsTokenCount: 3
              }
            }
          )
        )

        assert.deepStrictEqual(content.slice(1), [
          { type: "reasoning", text: "Hm." },
          { type: "text", text: "Hello", metadata: { gemini: { thoughtSignature: "t" } } },
          { type: "file", mediaType: "image/png", data: "AQID" },
          {
            type: "tool-call",
            id: "call_0",
            name: "weather",
            params: { city: "Rome" },
            metadata: { gemini: { thoughtSignature: "u" } }
          },
          { type: "tool-call", id: "call_1", name: "weather", params: {} },
          {
            type: "finish",
            reason: "tool-calls",
            usage: {
              inputTokens: { total: 5, uncached: 3, cacheRead: 2 },
              outputTokens: { total: 10, text: 7, reasoning: 3 }
            }
          }
        ])
        assert.deepInclude(content[0], { type: "response-metadata", id: "r1", modelId: "gemini-2.5-flash-001" })
      })
    )

    it.live("and what they cite, once", () =>
      Effect.gen(function* () {
        const grounded = chunk([{ text: "Hello" }], "STOP")
        const candidate = {
          ...grounded.candidates[0],
          groundingMetadata: {
            groundingChunks: [
              { web: { uri: "https://example.com/", title: "Example" } },
              { web: { uri: "nowhere" } },
              { retrievedContext: {} }
            ]
          }
        }
        const { content } = yield* generated({ ...grounded, candidates: [candidate] })

        assert.deepStrictEqual(
          content.filter((part) => part.type === "source"),
          [{ type: "source", sourceType: "url", id: "source_0", url: "https://example.com/", title: "Example" }]
        )
      })
    )

    it.live("and finish reasons, some of which are errors", () =>
      Effect.gen(function* () {
        for (const [reason, expected] of [
          ["STOP", "stop"],
          ["MAX_TOKENS", "length"],
          ["SAFETY", "content-filter"],
          ["RECITATION", "content-filter"],
          ["A_NEW_ONE", "other"]
        ] as const) {
          assert.strictEqual((yield* generated(chunk([{ text: "x" }], reason))).finishReason, expected, reason)
        }
        const cases: ReadonlyArray<readonly [unknown, string]> = [
          [chunk([], "SAFETY"), "ContentPolicy"],
          [chunk([], "PROHIBITED_CONTENT"), "ContentPolicy"],
          [{ promptFeedback: { blockReason: "SAFETY" } }, "ContentPolicy"],
          [chunk([{ text: "x" }], "MALFORMED_FUNCTION_CALL"), "InvalidResponse"],
          [chunk([{ text: "x" }], "FINISH_REASON_UNSPECIFIED"), "StreamCut"],
          [chunk([{ text: "x" }]), "StreamCut"],
          [{ usageMetadata: { promptTokenCount: 1 } }, "StreamCut"],
          [{ hello: "world" }, "InvalidResponse"],
          [[], "StreamCut"],
          [[{ error: { code: 429, status: "RESOURCE_EXHAUSTED", message: "x" } }], "RateLimited"]
        ]
        for (const [body, expected] of cases) {
          assert.strictEqual(kind(yield* Effect.flip(generated(body))), expected, JSON.stringify(body))
        }
        // An answer of thoughts only, when they used the budget up, is an answer.
        const empty = yield* generated(chunk([], "MAX_TOKENS"))
        assert.strictEqual(empty.finishReason, "length")
      })
    )
  })

  describe("reads streams", () => {
    it.live("to their end, although a finish reason may stand in the middle", () =>
      Effect.gen(function* () {
        const { error, parts, url } = yield* streamed(
          sse(
            chunk([{ text: "Hm.", thought: true }]),
            chunk([{ text: "Gr" }]),
            chunk([{ executableCode: {} }], "STOP"),
            chunk([{ text: "üße" }]),
            chunk([{ functionCall: { id: "own", name: "weather", args: { city: "Rome" } } }]),
            chunk([{ text: "", thoughtSignature: "t" }], "STOP")
          )
        )

        assert.isUndefined(error)
        assert.strictEqual(url, "/v1/models/gemini-2.5-flash:streamGenerateContent?alt=sse")
        assert.deepStrictEqual(
          LlmResponse.collect(parts).filter((part) => part.type !== "response-metadata" && part.type !== "finish"),
          [
            { type: "reasoning", text: "Hm." },
            { type: "text", text: "Grüße" },
            { type: "tool-call", id: "own", name: "weather", params: { city: "Rome" } }
          ]
        )
        assert.strictEqual(parts.filter((part) => part.type === "finish").length, 1)
      })
    )

    it.live("that are lists, because nobody asked for events", () =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(
          JSON.stringify([chunk([{ text: "Gr" }]), chunk([{ text: "üße" }], "STOP")])
        )

        assert.isUndefined(error)
        assert.strictEqual(
          LlmResponse.make({
            content: LlmResponse.collect(parts),
            served: LlmResponse.servedBy({ id: "x", model: "y" })
          }).text,
          "Grüße"
        )
      })
    )

    it.live("with the [DONE] that a gateway adds to any stream", () =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed(sse(chunk([{ text: "Hello" }], "STOP"), "[DONE]"))

        assert.isUndefined(error)
        assert.deepInclude(parts.at(-1), { type: "finish", reason: "stop" })
      })
    )

    it.live("that end badly", () =>
      Effect.gen(function* () {
        const said = chunk([{ text: "Hello" }])
        const cases: ReadonlyArray<readonly [string, string]> = [
          [sse(said), "StreamCut"],
          [
            sse(said, { error: { code: 503, status: "UNAVAILABLE", message: "The model is overloaded." } }),
            "Overloaded"
          ],
          [sse({ promptFeedback: { blockReason: "OTHER" } }), "ContentPolicy"],
          [`${sse(said)}data: {"candidates":[{"cont`, "StreamCut"],
          [sse(said, "{nonsense", chunk([{ text: "x" }], "STOP")), "InvalidResponse"],
          ["", "StreamCut"]
        ]
        for (const [body, expected] of cases) assert.strictEqual(kind((yield* streamed(body)).error), expected, body)
      })
    )
  })

  it.live("finds the wait in the body", () =>
    Effect.gen(function* () {
      const retryInfo = { "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "12.5s" }
      const server = yield* serve({
        status: 429,
        body: JSON.stringify({ error: { code: 429, status: "RESOURCE_EXHAUSTED", message: "x", details: [retryInfo] } })
      })
      const error = yield* Effect.flip((yield* provider({ baseUrl: server.baseUrl })).generate(hi))

      assert.deepStrictEqual(
        ProviderError.isProviderError(error) ? ProviderError.retryAfter(error) : undefined,
        Duration.millis(12_500)
      )
    })
  )

  it.effect("provides layers", () =>
    Effect.gen(function* () {
      const plain = yield* Effect.provide(
        Provider.Provider,
        Layer.provide(Gemini.layer({ model: "gemini-2.5-pro" }), FetchHttpClient.layer)
      )
      const configured = yield* Provider.Provider.pipe(
        Effect.provide(Gemini.layerConfig({ model: "mine" })),
        Effect.provideService(
          HttpClient.HttpClient,
          HttpClient.make(() => Effect.never)
        )
      )

      assert.strictEqual(plain.capabilities.contextWindow, 1_048_576)
      assert.strictEqual(configured.id, "gemini")
    })
  )
})
