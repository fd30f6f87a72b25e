import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResponse } from "@llm-resilience/core"
import { Effect, Exit, Redacted, Schema, Stream } from "effect"
import { HttpClient } from "effect/http"
import { adapters, type Protocol, protocols } from "../support/adapters.ts"
import { answering, awsEvent, complete, completeness, isSound, said } from "../support/streams.ts"

const hi = LlmRequest.make({ prompt: "Hi" })

const providerOf = (protocol: Protocol, client: HttpClient.HttpClient) =>
  Effect.provideService(
    adapters[protocol]({ model: "model-1", apiKey: Redacted.make("key"), maxEventBytes: 2000 }),
    HttpClient.HttpClient,
    client
  )

const collected = (protocol: Protocol, client: HttpClient.HttpClient) =>
  Effect.flatMap(providerOf(protocol, client), (provider) => Stream.runCollect(provider.stream(hi)))

const Cuts = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5000 })))

const Fragment = Schema.Union([
  Schema.Literals([
    "data: ",
    "data:",
    "event: error\n",
    "\n",
    "\n\n",
    "\r\n\r\n",
    ": x\n",
    "[DONE]",
    "{",
    "}",
    "null",
    "[]",
    '{"error":',
    '{"choices":[{"delta":{"content":"x","tool_calls":[{"function":{"name":"a"}}]},"finish_reason":"stop"}]}',
    '{"choices":[{"delta":{"content":7,"tool_calls":[null,7,{"function":7}]}}],"usage":7}',
    '{"choices":{"0":{"delta":[]}}}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}',
    '{"type":"content_block_start","index":-1,"content_block":7}',
    '{"type":"content_block_stop","index":"x"}',
    '{"type":"message_start","message":7}',
    '{"type":"message_delta","delta":7,"usage":[]}',
    '{"type":"message_stop"}',
    '{"type":"response.output_text.delta","delta":7}',
    '{"type":"response.output_item.added","item":{"type":"function_call","arguments":7}}',
    '{"type":"response.output_item.done","output_index":0,"item":{"type":"reasoning","summary":7}}',
    '{"type":"response.completed","response":{"status":"completed","output":7}}',
    '{"candidates":[{"content":{"parts":[7,{"text":7},{"functionCall":{"args":7}}]},"finishReason":"STOP"}]}',
    '{"candidates":7,"promptFeedback":7,"usageMetadata":[]}'
  ]),
  Schema.String
])

// Frames with sound checksums whose bodies are not what anybody expects.
const Frame = Schema.Struct({
  name: Schema.Union([
    Schema.Literals(["messageStart", "contentBlockStart", "contentBlockDelta", "messageStop", "metadata"]),
    Schema.String
  ]),
  type: Schema.Literals(["event", "exception", "error"]),
  body: Schema.Json
})

describe.each(protocols)("%s", (protocol) => {
  it.effect.prop("reads a stream the same, wherever it is cut into pieces", { cuts: Cuts }, ({ cuts }) =>
    Effect.gen(function* () {
      const bytes = complete(protocol)
      const whole = yield* collected(protocol, answering(bytes, []))

      const pieces = yield* collected(protocol, answering(bytes, cuts))

      assert.deepStrictEqual(LlmResponse.collect(pieces).slice(1), LlmResponse.collect(whole).slice(1))
      assert.strictEqual(
        pieces
          .filter((part) => part.type === "text-delta")
          .map((part) => part.delta)
          .join(""),
        said + said
      )
    })
  )

  it.effect.prop(
    "takes a stream that ends anywhere for complete only once it finished",
    { end: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3000 })), cuts: Cuts },
    ({ cuts, end }) =>
      Effect.gen(function* () {
        const bytes = complete(protocol)
        const { from, notBelow } = completeness(protocol)
        const part = bytes.subarray(0, end % (bytes.length + 1))

        const exit = yield* Effect.exit(collected(protocol, answering(part, cuts)))

        assert.isTrue(isSound(exit))
        if (part.length >= from) assert.isTrue(Exit.isSuccess(exit))
        if (part.length < notBelow) assert.isTrue(Exit.isFailure(exit))
      })
  )

  it.effect.prop(
    "never dies of what a server sends",
    {
      fragments: Schema.Array(Fragment),
      noise: Schema.Uint8Array,
      frames: Schema.Array(Frame),
      cuts: Cuts,
      status: Schema.Literals([200, 400, 503])
    },
    ({ cuts, fragments, frames, noise, status }) =>
      Effect.gen(function* () {
        const binary = Buffer.concat(frames.map(({ body, name, type }) => awsEvent(name, body, type)))
        for (const bytes of [noise, binary, Buffer.concat([Buffer.from(fragments.join("")), noise])]) {
          const provider = yield* providerOf(protocol, answering(bytes, cuts, status))

          assert.isTrue(isSound(yield* Effect.exit(provider.generate(hi))))
          assert.isTrue(isSound(yield* Effect.exit(Stream.runDrain(provider.stream(hi)))))
        }
      })
  )

  it.effect.prop(
    "never dies of a body with any JSON in any place",
    { json: Schema.Json, other: Schema.Json },
    ({ json, other }) =>
      Effect.gen(function* () {
        const bodies = [
          json,
          { choices: [json], error: other },
          { choices: [{ message: json, finish_reason: "stop" }] },
          {
            choices: [{ message: { content: json, tool_calls: [other], refusal: json }, finish_reason: other }],
            usage: json
          },
          {
            choices: [
              {
                message: { content: json, tool_calls: [{ id: other, function: { name: "a", arguments: json } }] },
                finish_reason: "stop"
              }
            ]
          },
          { content: [json], stop_reason: other },
          { output: [json], status: "completed", usage: other },
          {
            output: [
              { type: "message", content: [json] },
              { type: "function_call", arguments: other }
            ],
            status: json
          },
          { output: { message: { content: [json, { toolUse: other }] } }, stopReason: "end_turn", usage: other },
          { output: { message: json }, stopReason: other },
          { candidates: [json], usageMetadata: other },
          { candidates: [{ content: { parts: [json] }, finishReason: "STOP", groundingMetadata: other }] },
          [json, other],
          {
            content: [
              { type: "tool_use", input: json, id: other, name: json },
              { type: "text", text: other }
            ],
            stop_reason: json,
            usage: other
          }
        ]
        for (const body of bodies) {
          const provider = yield* providerOf(protocol, answering(Buffer.from(JSON.stringify(body)), []))

          assert.isTrue(isSound(yield* Effect.exit(provider.generate(hi))))
        }
      })
  )
})
