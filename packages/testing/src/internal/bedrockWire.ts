import { EventStreamCodec } from "@smithy/core/event-streams"
import { fromUtf8, toUtf8 } from "@smithy/core/serde"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { pieces } from "./tokens.ts"
import { padded, parsed } from "./wire.ts"
import type { Exchange, Fields, Frame, Wire } from "./wire.ts"

const Block = Schema.Struct({ text: Schema.optional(Schema.String) })

const Request = Schema.Struct({
  system: Schema.optional(Schema.Array(Block)),
  messages: Schema.NonEmptyArray(
    Schema.Struct({ role: Schema.Literals(["user", "assistant"]), content: Schema.NonEmptyArray(Block) })
  ),
  inferenceConfig: Schema.optional(Schema.Struct({ maxTokens: Schema.optional(Schema.Int) })),
  toolConfig: Schema.optional(
    Schema.Struct({
      tools: Schema.NonEmptyArray(Schema.Struct({ toolSpec: Schema.optional(Schema.Struct({ name: Schema.String })) }))
    })
  )
})

const decode = Schema.decodeUnknownResult(Request)

const textOf = (blocks: ReadonlyArray<typeof Block.Type> | undefined): string =>
  (blocks ?? []).map((block) => block.text ?? "").join("")

const path = /\/model\/([^/]+)\/(converse|converse-stream)$/

/** Amazon Bedrock's Converse. */
export const bedrockWire: Wire = {
  protocol: "bedrock",
  path,
  contentType: "application/vnd.amazon.eventstream",
  decode: (request) =>
    Result.mapBoth(decode(request.body), {
      onFailure: (error) => error.message,
      onSuccess: ({ messages, system, toolConfig }) => {
        const [, model = "", method] = path.exec(request.path) ?? []
        const said = messages.map(({ content, role }) => ({ role, text: textOf(content) }))
        return {
          question: {
            protocol: "bedrock",
            model: decodeURIComponent(model),
            stream: method === "converse-stream",
            system: textOf(system),
            messages: said,
            text: said.findLast((message) => message.role === "user")?.text ?? "",
            tools: (toolConfig?.tools ?? []).flatMap((tool) =>
              tool.toolSpec === undefined ? [] : [tool.toolSpec.name]
            ),
            body: request.body
          },
          usageInStream: true
        }
      }
    }),
  whole: (exchange) => ({
    metrics: { latencyMs: 1 },
    output: {
      message: {
        role: "assistant",
        content: [
          ...(exchange.reasoning.length > 0
            ? [
                {
                  reasoningContent: {
                    reasoningText: { text: exchange.reasoning.join(""), signature: signatureOf(exchange) }
                  }
                }
              ]
            : []),
          ...(textTokens(exchange).length > 0 ? [{ text: textTokens(exchange).join("") }] : []),
          ...exchange.toolCalls.map((call) => ({
            toolUse: { toolUseId: call.id, name: call.name, input: parsed(call.params) }
          }))
        ]
      }
    },
    ...stopReason(exchange),
    usage: usage(exchange)
  }),
  frames: (exchange) => {
    const frames: Array<Frame> = []
    const push = (kind: Frame["kind"], name: string, body: Fields) =>
      frames.push({ kind, text: message({ ":message-type": "event", ":event-type": name }, body) })
    push("preamble", "messageStart", { role: "assistant" })
    let contentBlockIndex = 0
    const block = (start: Fields | undefined, deltas: ReadonlyArray<Schema.Json>, last?: Schema.Json) => {
      if (start !== undefined) push("block", "contentBlockStart", { contentBlockIndex, start })
      for (const delta of deltas) push("part", "contentBlockDelta", { contentBlockIndex, delta })
      if (last !== undefined) push("block", "contentBlockDelta", { contentBlockIndex, delta: last })
      push("block", "contentBlockStop", { contentBlockIndex })
      contentBlockIndex += 1
    }
    if (exchange.reasoning.length > 0) {
      block(
        undefined,
        exchange.reasoning.map((text) => ({ reasoningContent: { text } })),
        { reasoningContent: { signature: signatureOf(exchange) } }
      )
    }
    const text = textTokens(exchange)
    if (text.length > 0) {
      block(
        undefined,
        text.map((text) => ({ text }))
      )
    }
    for (const call of exchange.toolCalls) {
      block(
        { toolUse: { toolUseId: call.id, name: call.name } },
        pieces(call.params).map((input) => ({ toolUse: { input } }))
      )
    }
    if (exchange.finish !== undefined) push("finish", "messageStop", stopReason(exchange))
    push("terminator", "metadata", { metrics: { latencyMs: 1 }, usage: usage(exchange) })
    return frames
  },
  headers: (serial) => ({ "x-amzn-requestid": requestIdOf(serial) }),
  error: (status, description) => {
    const { message, type } = errors.get(status) ?? (status < 500 ? validation : internal)
    return { message: description ?? message, __type: type }
  },
  // Inside a stream the type is in the header, and begins with a small letter.
  errorFrame: (body) => {
    const given = typeof body === "object" && body !== null && "__type" in body ? body["__type"] : undefined
    const named = typeof given === "string" ? given : internal.type
    const type = named.charAt(0).toLowerCase() + named.slice(1)
    return message({ ":message-type": "exception", ":exception-type": type }, body)
  },
  overloaded: 503,
  // The last byte belongs to the checksum.
  get malformed() {
    const broken = message({ ":message-type": "event", ":event-type": "contentBlockDelta" }, {})
    broken[broken.length - 1] = ~(broken.at(-1) ?? 0)
    return broken
  }
}

const codec = new EventStreamCodec(toUtf8, fromUtf8)

const message = (headers: { readonly [name: string]: string }, body: Schema.Json): Uint8Array =>
  codec.encode({
    headers: Object.fromEntries(
      Object.entries({ ...headers, ":content-type": "application/json" }).map(([name, value]) => [
        name,
        { type: "string", value }
      ])
    ),
    body: fromUtf8(JSON.stringify(body))
  })

const requestIdOf = (serial: number): string => `00000000-0000-4000-8000-${padded(serial).slice(-12)}`

const signatureOf = (exchange: Exchange): string => `c2lnbmVk${padded(exchange.serial)}`

// Converse has no field for a refusal: it is text that stops for that reason.
const textTokens = (exchange: Exchange): ReadonlyArray<string> => [...exchange.text, ...exchange.refusal]

const finishes = new Map([
  ["stop", "end_turn"],
  ["length", "max_tokens"],
  ["content-filter", "content_filtered"],
  ["tool-calls", "tool_use"]
])

const stopReason = ({ finish, refusal }: Exchange): Fields => {
  if (finish === undefined) return {}
  return { stopReason: finish === "stop" && refusal.length > 0 ? "content_filtered" : (finishes.get(finish) ?? finish) }
}

const usage = ({ usage: { cachedInputTokens, inputTokens, outputTokens } }: Exchange): Schema.Json => ({
  inputTokens: inputTokens - (cachedInputTokens ?? 0),
  outputTokens,
  totalTokens: inputTokens + outputTokens,
  ...(cachedInputTokens === undefined ? {} : { cacheReadInputTokens: cachedInputTokens, cacheWriteInputTokens: 0 })
})

interface KnownError {
  readonly type: string
  readonly message: string
}

const internal: KnownError = {
  type: "InternalServerException",
  message: "The system encountered an unexpected error during processing. Try your request again."
}

const validation: KnownError = { type: "ValidationException", message: "The request is invalid." }

const errors: ReadonlyMap<number, KnownError> = new Map([
  [401, { type: "UnrecognizedClientException", message: "The security token included in the request is invalid." }],
  [403, { type: "AccessDeniedException", message: "You do not have access to this resource." }],
  [404, { type: "ResourceNotFoundException", message: "The specified resource was not found." }],
  [408, { type: "ModelTimeoutException", message: "The request took too long to process." }],
  [424, { type: "ModelErrorException", message: "The request failed while the model processed it." }],
  [429, { type: "ThrottlingException", message: "Too many requests, please wait before trying again." }],
  [503, { type: "ServiceUnavailableException", message: "Bedrock is unable to process your request." }]
])
