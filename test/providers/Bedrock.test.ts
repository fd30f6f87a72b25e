import { assert, describe, it } from "@effect/vitest"
import { EventStreamCodec } from "@smithy/core/event-streams"
import { LlmRequest, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { Bedrock } from "@llm-resilience/providers"
import { Upstream } from "@llm-resilience/testing"
import { ConfigProvider, Duration, Effect, Exit, Layer, Redacted, Schema, Stream } from "effect"
import { Tool } from "effect/ai"
import { FetchHttpClient, HttpClient } from "effect/http"
import { createHash, createHmac } from "node:crypto"
import { createServer } from "node:http"
import { serve } from "./server.ts"

const hi = LlmRequest.make({ prompt: "Hi" })
const model = "anthropic.claude-test-v1:0"

const provider = (options: Partial<Bedrock.Options>) =>
  Bedrock.make({ model, region: "us-east-1", apiKey: Redacted.make("bedrock-api-key"), ...options }).pipe(
    Effect.provide(FetchHttpClient.layer)
  )

const answer = (content: ReadonlyArray<unknown>, stopReason: unknown = "end_turn", rest: object = {}) => ({
  output: { message: { role: "assistant", content } },
  stopReason,
  usage: { inputTokens: 5, outputTokens: 7, totalTokens: 12 },
  metrics: { latencyMs: 1 },
  ...rest
})

const generated = (body: unknown, request = hi) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: JSON.stringify(body), headers: { "x-amzn-requestid": "req-1" } })
    const bedrock = yield* provider({ baseUrl: server.baseUrl })
    return yield* bedrock.generate(request)
  })

const sent = (request: LlmRequest.Input, options: Partial<Bedrock.Options> = {}) =>
  Effect.gen(function* () {
    const server = yield* serve({ body: JSON.stringify(answer([{ text: "Hello" }])) })
    const bedrock = yield* provider({ baseUrl: server.baseUrl, ...options })
    yield* bedrock.generate(LlmRequest.make(request))
    const received = server.received[0]
    assert(received !== undefined)
    return { url: received.url, headers: received.headers, body: JSON.parse(JSON.stringify(received.body)) }
  })

const codec = new EventStreamCodec(
  (bytes) => Buffer.from(bytes as Uint8Array).toString("utf8"),
  (text) => new Uint8Array(Buffer.from(text, "utf8"))
)

const message = (headers: { readonly [name: string]: string }, body: unknown): Uint8Array =>
  codec.encode({
    headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, { type: "string", value }])),
    body: new Uint8Array(Buffer.from(typeof body === "string" ? body : JSON.stringify(body), "utf8"))
  })

const event = (name: string, body: unknown) => message({ ":message-type": "event", ":event-type": name }, body)

const streamed = (body: ReadonlyArray<Uint8Array>, request = hi, options: Partial<Bedrock.Options> = {}) =>
  Effect.gen(function* () {
    const server = yield* serve({ headers: { "content-type": "application/vnd.amazon.eventstream" }, body })
    const bedrock = yield* provider({ baseUrl: server.baseUrl, ...options })
    const parts: Array<LlmResponse.LlmStreamPart> = []
    const exit = yield* Effect.exit(
      Stream.runForEach(bedrock.stream(request), (part) => Effect.sync(() => parts.push(part)))
    )
    const error = Exit.findErrorOption(exit)
    return { parts, error: error._tag === "None" ? undefined : error.value }
  })

const kind = (error: unknown) => (ProviderError.isProviderError(error) ? ProviderError.kind(error) : String(error))

const weather = Tool.make("weather", {
  description: "Tells the weather",
  parameters: Schema.Struct({ city: Schema.String })
})

describe("Bedrock", () => {
  describe("asks", () => {
    it.live("with the model in the address, turns that alternate and the settings", () =>
      Effect.gen(function* () {
        const { body, headers, url } = yield* sent({
          prompt: [
            { role: "system", content: "Be brief." },
            { role: "assistant", content: "Welcome!" },
            { role: "user", content: "Hi" },
            { role: "user", content: "Are you there?" }
          ],
          settings: {
            maxOutputTokens: 10,
            temperature: 2,
            topP: 0.5,
            stop: ["END", " "],
            providerOptions: { bedrock: { additionalModelRequestFields: { top_k: 5 } } }
          }
        })

        assert.strictEqual(url, "/v1/model/anthropic.claude-test-v1%3A0/converse")
        assert.strictEqual(headers["authorization"], "Bearer bedrock-api-key")
        assert.deepStrictEqual(body, {
          system: [{ text: "Be brief." }],
          messages: [
            { role: "user", content: [{ text: "Please go on." }] },
            { role: "assistant", content: [{ text: "Welcome!" }] },
            { role: "user", content: [{ text: "Hi" }, { text: "Are you there?" }] }
          ],
          inferenceConfig: { maxTokens: 10, temperature: 1, topP: 0.5, stopSequences: ["END"] },
          additionalModelRequestFields: { top_k: 5 }
        })
      })
    )

    it.live("with tools and the choice among them, and names past tools even when none may be called", () =>
      Effect.gen(function* () {
        const prompt: LlmRequest.Input["prompt"] = [
          { role: "user", content: "How warm is it?" },
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "Hm.", options: { bedrock: { signature: "s" } } },
              { type: "reasoning", text: "of another", options: { anthropic: { signature: "t" } } },
              { type: "tool-call", id: "a b", name: "weather", params: { city: "Rome" } },
              { type: "tool-call", id: "c", name: "gone", params: {} }
            ]
          },
          {
            role: "tool",
            content: [{ type: "tool-result", id: "a b", name: "weather", isFailure: true, result: "broken" }]
          }
        ]
        const chosen = yield* sent({ prompt, tools: [weather], toolChoice: { tool: "weather" } })
        const none = yield* sent({ prompt, tools: [weather], toolChoice: "none" })
        const plain = yield* sent({ prompt: "Hi", tools: [weather], toolChoice: "none" })

        const spec = {
          toolSpec: {
            name: "weather",
            description: "Tells the weather",
            inputSchema: {
              json: {
                type: "object",
                properties: { city: { type: "string" } },
                required: ["city"],
                additionalProperties: false
              }
            }
          }
        }
        assert.deepStrictEqual(chosen.body["toolConfig"], {
          tools: [spec],
          toolChoice: { tool: { name: "weather" } }
        })
        assert.deepStrictEqual(none.body["toolConfig"], {
          tools: [spec, { toolSpec: { name: "gone", inputSchema: { json: { type: "object", properties: {} } } } }]
        })
        assert.isUndefined(plain.body["toolConfig"])
        const [, said, given] = chosen.body["messages"]
        assert.deepStrictEqual(said.content[0], {
          reasoningContent: { reasoningText: { text: "Hm.", signature: "s" } }
        })
        assert.strictEqual(said.content.length, 3)
        const id = said.content[1].toolUse.toolUseId
        assert.match(id, /^[a-zA-Z0-9_-]{1,64}$/)
        assert.deepStrictEqual(given.content, [
          { toolResult: { toolUseId: id, content: [{ text: "broken" }], status: "error" } }
        ])
      })
    )

    it.live("with images and documents, and says what it cannot send", () =>
      Effect.gen(function* () {
        const file = (mediaType: string, data: string | Uint8Array | URL, fileName?: string) =>
          ({ type: "file", mediaType, data, ...(fileName === undefined ? undefined : { fileName }) }) as const
        const bytes = new Uint8Array([1, 2, 3])
        const { body } = yield* sent({
          prompt: [
            {
              role: "user",
              content: [
                file("image/jpg", bytes),
                file("application/pdf", bytes, "Report (final), 2026.pdf"),
                file("text/plain", bytes),
                file("text/csv", bytes),
                file("video/mp4", "s3://bucket/film.mp4")
              ]
            }
          ]
        })
        const address = yield* Effect.flip(
          sent({ prompt: [{ role: "user", content: [file("image/png", new URL("https://example.com/a.png"))] }] })
        )
        const strange = yield* Effect.flip(
          sent({ prompt: [{ role: "user", content: [file("application/zip", bytes)] }] })
        )

        assert.deepStrictEqual(body["messages"][0].content, [
          { image: { format: "jpeg", source: { bytes: "AQID" } } },
          { document: { format: "pdf", name: "Report (final) 2026", source: { bytes: "AQID" } } },
          { document: { format: "txt", name: "document 2", source: { bytes: "AQID" } } },
          { document: { format: "csv", name: "document 3", source: { bytes: "AQID" } } },
          { video: { format: "mp4", source: { s3Location: { uri: "s3://bucket/film.mp4" } } } }
        ])
        assert.deepInclude(address, {
          reason: "InvalidRequest",
          description: "Bedrock takes files as data or from S3, not by address"
        })
        assert.deepInclude(strange, {
          reason: "InvalidRequest",
          description: "Bedrock takes no files of the type application/zip"
        })
      })
    )

    it.live("for JSON through a tool that has to be called, also when no other may be", () =>
      Effect.gen(function* () {
        const responseFormat = {
          type: "json" as const,
          objectName: "my answer",
          schema: Schema.Struct({ city: Schema.String })
        }
        const alone = yield* sent({ prompt: "Where?", responseFormat })
        const beside = yield* sent({ prompt: "Where?", responseFormat, tools: [weather] })
        const none = yield* sent({ prompt: "Where?", responseFormat, tools: [weather], toolChoice: "none" })

        assert.deepStrictEqual(alone.body["toolConfig"].toolChoice, { tool: { name: "my_answer" } })
        assert.deepStrictEqual(beside.body["toolConfig"].toolChoice, { any: {} })
        assert.deepStrictEqual(none.body["toolConfig"].toolChoice, { tool: { name: "my_answer" } })

        const json = yield* generated(
          answer([{ toolUse: { toolUseId: "1", name: "my_answer", input: { city: "Rome" } } }], "tool_use"),
          LlmRequest.make({ prompt: "Where?", responseFormat })
        )
        assert.strictEqual(json.text, '{"city":"Rome"}')
        assert.strictEqual(json.finishReason, "stop")
      })
    )

    it.live("for no more output than the model has", () =>
      Effect.gen(function* () {
        const { body } = yield* sent(
          { prompt: "Hi", settings: { maxOutputTokens: 100_000 } },
          { model: "anthropic.claude-3-haiku-20240307-v1:0" }
        )

        assert.strictEqual(body["inferenceConfig"].maxTokens, 4096)
      })
    )
  })

  describe("signs", () => {
    const secretAccessKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    const environment = (env: { readonly [name: string]: string }) =>
      ConfigProvider.layer(ConfigProvider.fromEnv({ env }))

    /** The signature of a request as AWS computes it, with nothing but Node's own hashes. */
    const signatureOf = (headers: { readonly [name: string]: string | undefined }, path: string, body: string) => {
      const date = headers["x-amz-date"] ?? ""
      const names = /SignedHeaders=([^,]*)/.exec(headers["authorization"] ?? "")?.[1] ?? ""
      const scope = `${date.slice(0, 8)}/us-east-1/bedrock/aws4_request`
      const hash = (text: string) => createHash("sha256").update(text).digest("hex")
      const hmac = (key: string | Buffer, text: string) => createHmac("sha256", key).update(text).digest()
      const canonical = [
        "POST",
        path.split("/").map(encodeURIComponent).join("/"),
        "",
        ...names.split(";").map((name) => `${name}:${headers[name]?.trim()}`),
        "",
        names,
        hash(body)
      ].join("\n")
      const key = hmac(
        hmac(hmac(hmac(`AWS4${secretAccessKey}`, date.slice(0, 8)), "us-east-1"), "bedrock"),
        "aws4_request"
      )
      return hmac(key, ["AWS4-HMAC-SHA256", date, scope, hash(canonical)].join("\n")).toString("hex")
    }

    it.live("each request as AWS checks it, and keeps the secrets to itself", () =>
      Effect.gen(function* () {
        const server = yield* serve({ status: 403, body: JSON.stringify({ message: `no ${secretAccessKey}` }) })
        const bedrock = yield* provider({
          baseUrl: server.baseUrl,
          apiKey: undefined,
          credentials: {
            accessKeyId: "AKIDEXAMPLE",
            secretAccessKey: Redacted.make(secretAccessKey),
            sessionToken: Redacted.make("the-session-token")
          }
        })
        const error = yield* Effect.flip(bedrock.generate(LlmRequest.make({ prompt: "Grüße" })))

        const received = server.received[0]
        assert(received !== undefined)
        const { headers } = received as { headers: { readonly [name: string]: string } }
        const expected = signatureOf(headers, received.url, JSON.stringify(received.body))
        assert.include(headers["authorization"], "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        assert.include(headers["authorization"], `Signature=${expected}`)
        assert.strictEqual(headers["x-amz-security-token"], "the-session-token")
        assert.notInclude(JSON.stringify(error), secretAccessKey)
      })
    )

    it.live("with the variables of the environment, a key before credentials", () =>
      Effect.gen(function* () {
        const server = yield* serve({ body: JSON.stringify(answer([{ text: "Hello" }])) })
        const ask = (env: { readonly [name: string]: string }) =>
          Effect.gen(function* () {
            const bedrock = yield* Bedrock.make({ model, baseUrl: server.baseUrl })
            yield* bedrock.generate(hi)
            return server.received.at(-1)?.headers["authorization"] ?? ""
          }).pipe(Effect.provide([FetchHttpClient.layer, environment(env)]))
        const credentials = { AWS_ACCESS_KEY_ID: "AKIDENV", AWS_SECRET_ACCESS_KEY: "secret", AWS_REGION: "eu-west-1" }

        assert.match(yield* ask(credentials), /^AWS4-HMAC-SHA256 Credential=AKIDENV\/\d{8}\/eu-west-1\/bedrock\//)
        assert.strictEqual(yield* ask({ ...credentials, AWS_BEARER_TOKEN_BEDROCK: "key" }), "Bearer key")
      })
    )

    it.live("with what AWS's own chain finds, asked once for as long as it holds", () =>
      Effect.gen(function* () {
        let asked = 0
        const container = createServer((_, response) => {
          asked++
          response.setHeader("content-type", "application/json")
          response.end(
            JSON.stringify({
              AccessKeyId: "AKIDCONTAINER",
              SecretAccessKey: "secret",
              Token: "token",
              Expiration: new Date(Date.now() + 3_600_000).toISOString()
            })
          )
        })
        const port = yield* Effect.acquireRelease(
          Effect.callback<number>((resume) => {
            container.listen(0, "127.0.0.1", () => {
              const address = container.address()
              resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0))
            })
          }),
          () => Effect.promise(() => new Promise((done) => container.close(done)))
        )
        // The chain is AWS's own code and reads the environment of the process.
        const variables = {
          AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://127.0.0.1:${port}/credentials`,
          AWS_CONFIG_FILE: "/nonexistent",
          AWS_SHARED_CREDENTIALS_FILE: "/nonexistent"
        }
        yield* Effect.acquireRelease(
          Effect.sync(() => Object.assign(process.env, variables)),
          () => Effect.sync(() => Object.keys(variables).forEach((name) => delete process.env[name]))
        )
        const server = yield* serve({ body: JSON.stringify(answer([{ text: "Hello" }])) })
        const bedrock = yield* Effect.provide(Bedrock.make({ model, region: "us-east-1", baseUrl: server.baseUrl }), [
          FetchHttpClient.layer,
          environment({})
        ])
        yield* bedrock.generate(hi)
        yield* bedrock.generate(hi)

        assert.include(server.received[1]?.headers["authorization"], "Credential=AKIDCONTAINER/")
        assert.strictEqual(asked, 1)
      })
    )

    it.live("nothing without credentials, and says so", () =>
      Effect.gen(function* () {
        const upstream = yield* Upstream.make()
        const bedrock = yield* provider({
          baseUrl: upstream.baseUrl,
          apiKey: undefined,
          credentials: () => Promise.reject(new Error("Could not load credentials from any providers"))
        })

        const error = yield* Effect.flip(bedrock.generate(hi))

        assert.deepInclude(error, {
          reason: "Authentication",
          description: "There are no AWS credentials: Could not load credentials from any providers"
        })
        assert.strictEqual((yield* upstream.requests).length, 0)
      })
    )

    it.effect("for a region, which has to be one", () =>
      Effect.gen(function* () {
        for (const [region, says] of [
          [undefined, "there is no region; give one, or set AWS_REGION"],
          ["", "region must be one of AWS"],
          ["evil.example/#", "region must be one of AWS"]
        ] as const) {
          const exit = yield* Effect.exit(
            Effect.provide(Bedrock.make({ model, region }), [FetchHttpClient.layer, environment({})])
          )

          assert.include(String(Exit.isFailure(exit) ? exit.cause : ""), `Bedrock.make: ${says}`)
        }
      })
    )
  })

  describe("reads whole answers", () => {
    it.live("with text, reasoning, tool calls, citations and usage", () =>
      Effect.gen(function* () {
        const { content } = yield* generated(
          answer(
            [
              { reasoningContent: { reasoningText: { text: "Hm.", signature: "s" } } },
              { reasoningContent: { redactedContent: "AQID" } },
              { text: "Here." },
              {
                citationsContent: {
                  content: [{ text: "Cited." }],
                  citations: [
                    { title: "Example", location: { web: { url: "https://example.com/" } } },
                    { title: "Page", location: { documentPage: { documentIndex: 0 } } }
                  ]
                }
              },
              { toolUse: { toolUseId: "t1", name: "weather", input: { city: "Rome" } } },
              { hologram: {} }
            ],
            "tool_use",
            { usage: { inputTokens: 5, outputTokens: 7, cacheReadInputTokens: 3, cacheWriteInputTokens: 2 } }
          )
        )

        assert.deepStrictEqual(content, [
          {
            type: "response-metadata",
            id: "req-1",
            modelId: model,
            timestamp: content[0]?.type === "response-metadata" ? (content[0].timestamp ?? "") : ""
          },
          { type: "reasoning", text: "Hm.", metadata: { bedrock: { signature: "s" } } },
          { type: "reasoning", text: "", metadata: { bedrock: { redactedContent: "AQID" } } },
          { type: "text", text: "Here." },
          { type: "text", text: "Cited." },
          { type: "source", sourceType: "url", id: "source_3_0", url: "https://example.com/", title: "Example" },
          { type: "tool-call", id: "t1", name: "weather", params: { city: "Rome" } },
          {
            type: "finish",
            reason: "tool-calls",
            usage: {
              inputTokens: { uncached: 5, total: 10, cacheRead: 3, cacheWrite: 2 },
              outputTokens: { total: 7 }
            }
          }
        ])
      })
    )

    it.live("and finish reasons, some of which are errors", () =>
      Effect.gen(function* () {
        const said = [{ text: "Hello" }]
        for (const [stop, expected] of [
          ["end_turn", "stop"],
          ["stop_sequence", "stop"],
          ["max_tokens", "length"],
          ["model_context_window_exceeded", "length"],
          ["guardrail_intervened", "content-filter"],
          ["a_new_one", "other"]
        ] as const) {
          assert.strictEqual((yield* generated(answer(said, stop))).finishReason, expected, stop)
        }
        for (const [content, stop, expected] of [
          [[], "guardrail_intervened", "ContentPolicy"],
          [[], "content_filtered", "ContentPolicy"],
          [said, "malformed_tool_use", "InvalidResponse"],
          [said, null, "StreamCut"]
        ] as const) {
          assert.strictEqual(kind(yield* Effect.flip(generated(answer(content, stop)))), expected, String(stop))
        }
        assert.strictEqual(kind(yield* Effect.flip(generated({ message: "?" }))), "InvalidResponse")
        assert.strictEqual(kind(yield* Effect.flip(generated({ __type: "ThrottlingException" }))), "RateLimited")
      })
    )
  })

  describe("reads streams", () => {
    const said = [
      event("messageStart", { role: "assistant", p: "abc" }),
      event("contentBlockDelta", { contentBlockIndex: 0, delta: { text: "Grüße" } })
    ]
    const end = [
      event("contentBlockStop", { contentBlockIndex: 0 }),
      event("messageStop", { stopReason: "end_turn" }),
      event("metadata", { usage: { inputTokens: 1, outputTokens: 2 } })
    ]

    it.live("of text, reasoning and tool calls, and skips events it does not know", () =>
      Effect.gen(function* () {
        const { error, parts } = yield* streamed([
          event("messageStart", { role: "assistant" }),
          event("contentBlockDelta", { contentBlockIndex: 0, delta: { reasoningContent: { text: "Hm." } } }),
          event("contentBlockDelta", { contentBlockIndex: 0, delta: { reasoningContent: { signature: "s" } } }),
          event("contentBlockStop", { contentBlockIndex: 0 }),
          event("somethingNew", { contentBlockIndex: 0 }),
          event("contentBlockDelta", { contentBlockIndex: 1, delta: { text: "Grüße" } }),
          event("contentBlockDelta", { contentBlockIndex: 1, delta: { hologram: {} } }),
          event("contentBlockStop", { contentBlockIndex: 1 }),
          event("contentBlockStart", { contentBlockIndex: 2, start: { toolUse: { toolUseId: "t", name: "weather" } } }),
          event("contentBlockDelta", { contentBlockIndex: 2, delta: { toolUse: { input: '{"city":' } } }),
          event("contentBlockDelta", { contentBlockIndex: 2, delta: { toolUse: { input: '"Rome"}' } } }),
          event("contentBlockStop", { contentBlockIndex: 2 }),
          event("messageStop", { stopReason: "tool_use" }),
          event("metadata", { usage: { inputTokens: 1, outputTokens: 2 } })
        ])

        assert.isUndefined(error)
        assert.deepStrictEqual(
          LlmResponse.collect(parts).filter((part) => part.type !== "response-metadata"),
          [
            { type: "reasoning", text: "Hm.", metadata: { bedrock: { signature: "s" } } },
            { type: "text", text: "Grüße" },
            { type: "tool-call", id: "t", name: "weather", params: { city: "Rome" } },
            {
              type: "finish",
              reason: "tool-calls",
              usage: { inputTokens: { uncached: 1, total: 1 }, outputTokens: { total: 2 } }
            }
          ]
        )
      })
    )

    it.live("with an exception in them, before and after the first word", () =>
      Effect.gen(function* () {
        const exception = (type: string, body: unknown) =>
          message({ ":message-type": "exception", ":exception-type": type }, body)
        for (const [frame, expected] of [
          [exception("throttlingException", { message: "Too many requests" }), "RateLimited"],
          [exception("modelStreamErrorException", { message: "x", originalStatusCode: 500 }), "ServerError"],
          [exception("internalServerException", { message: "x" }), "ServerError"],
          [exception("serviceUnavailableException", "not json"), "Overloaded"],
          [exception("modelTimeoutException", { message: "x" }), "Timeout"],
          [
            exception("validationException", { message: "Input is too long for requested model." }),
            "ContextLengthExceeded"
          ],
          [exception("validationException", { message: "Wrong." }), "InvalidRequest"],
          [
            message({ ":message-type": "error", ":error-code": "ThrottlingException", ":error-message": "x" }, ""),
            "RateLimited"
          ]
        ] as const) {
          const before = yield* streamed([frame])
          const after = yield* streamed([...said, frame])

          assert.strictEqual(kind(before.error), expected)
          assert.strictEqual(kind(after.error), expected)
          assert.isTrue(after.parts.some((part) => part.type === "text-delta"))
        }
      })
    )

    it.live("that are cut, corrupt, too long, or no streams at all", () =>
      Effect.gen(function* () {
        const whole = Buffer.concat([...said, ...end])
        const corrupt = Buffer.from(said[1] ?? [])
        corrupt[corrupt.length - 6] = 0
        // A length that promises more than will ever come.
        const brokenLength = Buffer.from(said[1] ?? [])
        brokenLength[2] = 0x10
        const cases: ReadonlyArray<readonly [ReadonlyArray<Uint8Array>, string]> = [
          [said, "StreamCut"],
          [[...said, (end[1] ?? Buffer.alloc(0)).subarray(0, 9)], "StreamCut"],
          [[corrupt, ...end], "InvalidResponse"],
          [[Buffer.from([0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8])], "InvalidResponse"],
          [[Buffer.from([0x10, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])], "InvalidResponse"],
          [[...said, brokenLength], "InvalidResponse"],
          [[Buffer.from("<html>Sign in</html>")], "InvalidResponse"],
          [[Buffer.from('{"__type":"ThrottlingException","message":"slow"}')], "RateLimited"],
          [[], "StreamCut"]
        ]
        for (const [bytes, expected] of cases) {
          assert.strictEqual(kind((yield* streamed(bytes)).error), expected)
        }
        const splinters = Array.from(whole, (byte) => Uint8Array.of(byte))
        assert.isUndefined((yield* streamed(splinters)).error)
        // The usage may be missing when the connection ends right after the stop reason.
        assert.isUndefined((yield* streamed([...said, ...end.slice(0, 2)])).error)
        const document = yield* streamed([Buffer.from(JSON.stringify(answer([{ text: "Grüße" }])))])
        assert.isUndefined(document.error)
        assert.strictEqual((yield* streamed([whole], hi, { maxEventBytes: 50 })).error?._tag, "APIError")
      })
    )
  })

  it.live("reads the wait and the id of an error", () =>
    Effect.gen(function* () {
      const server = yield* serve({
        status: 429,
        headers: {
          "x-amzn-requestid": "req-9",
          "x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/",
          "retry-after": "3"
        },
        body: JSON.stringify({ message: "Too many tokens, please wait before trying again." })
      })
      const error = yield* Effect.flip((yield* provider({ baseUrl: server.baseUrl })).generate(hi))

      assert.deepInclude(error, { _tag: "RateLimited", requestId: "req-9" })
      assert.deepStrictEqual(
        ProviderError.isProviderError(error) ? ProviderError.retryAfter(error) : undefined,
        Duration.seconds(3)
      )
    })
  )

  it.effect("provides layers", () =>
    Effect.gen(function* () {
      const options = { model, region: "us-east-1" }
      const plain = yield* Effect.provide(
        Provider.Provider,
        Layer.provide(Bedrock.layer(options), FetchHttpClient.layer)
      )
      const client = HttpClient.make(() => Effect.never)
      const configured = yield* Provider.Provider.pipe(
        Effect.provide(Bedrock.layerConfig(options)),
        Effect.provideService(HttpClient.HttpClient, client)
      )

      assert.strictEqual(plain.id, "bedrock")
      assert.strictEqual(configured.model, model)
      assert.isTrue(plain.capabilities.prefill)
    })
  )
})
