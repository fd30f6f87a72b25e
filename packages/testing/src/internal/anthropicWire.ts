import * as DateTime from "effect/DateTime"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { pieces } from "./tokens.ts"
import { event, padded, parsed } from "./wire.ts"
import type { Exchange, Frame, Wire } from "./wire.ts"

const Text = Schema.Union([
  Schema.String,
  Schema.Array(Schema.Struct({ type: Schema.String, text: Schema.optional(Schema.String) }))
])

const Request = Schema.Struct({
  model: Schema.NonEmptyString,
  max_tokens: Schema.Int,
  system: Schema.optional(Text),
  messages: Schema.NonEmptyArray(
    Schema.Struct({ role: Schema.Literals(["user", "assistant", "system"]), content: Text })
  ),
  stream: Schema.optional(Schema.Boolean),
  tools: Schema.optional(Schema.Array(Schema.Struct({ name: Schema.String })))
})

const decode = Schema.decodeUnknownResult(Request)

const textOf = (content: typeof Text.Type | undefined): string =>
  typeof content === "string" ? content : (content ?? []).map((block) => block.text ?? "").join("")

/** Anthropic Messages. */
export const anthropicWire: Wire = {
  protocol: "anthropic",
  path: /\/messages$/,
  keyHeader: "x-api-key",
  decode: ({ body, header }) => {
    if (header("anthropic-version") === undefined) return Result.fail("anthropic-version: header is required")
    return Result.mapBoth(decode(body), {
      onFailure: (error) => error.message,
      onSuccess: (request) => {
        const messages = request.messages.map(({ content, role }) => ({ role, text: textOf(content) }))
        return {
          question: {
            protocol: "anthropic",
            model: request.model,
            stream: request.stream ?? false,
            system: textOf(request.system),
            messages,
            text: messages.findLast((message) => message.role === "user")?.text ?? "",
            tools: (request.tools ?? []).map((tool) => tool.name),
            body
          },
          usageInStream: true
        }
      }
    })
  },
  whole: (exchange) => ({
    id: idOf(exchange),
    type: "message",
    role: "assistant",
    model: exchange.model,
    content: [
      ...(exchange.reasoning.length > 0
        ? [{ type: "thinking", thinking: exchange.reasoning.join(""), signature: signatureOf(exchange) }]
        : []),
      ...(textTokens(exchange).length > 0 ? [{ type: "text", text: textTokens(exchange).join("") }] : []),
      ...exchange.toolCalls.map((call) => ({
        type: "tool_use",
        id: call.id,
        name: call.name,
        input: parsed(call.params)
      }))
    ],
    stop_reason: stopReason(exchange),
    stop_sequence: null,
    usage: { ...inputUsage(exchange), output_tokens: exchange.usage.outputTokens }
  }),
  frames: (exchange) => {
    const frames: Array<Frame> = []
    const push = (kind: Frame["kind"], json: { readonly type: string } & Schema.JsonObject) => {
      frames.push({ kind, text: event(json.type, json) })
    }
    push("preamble", {
      type: "message_start",
      message: {
        id: idOf(exchange),
        type: "message",
        role: "assistant",
        model: exchange.model,
        content: [],
        stop_reason: null,
        stop_sequence: null,
        usage: { ...inputUsage(exchange), output_tokens: 1 }
      }
    })
    let index = 0
    const block = (
      content_block: { readonly type: string } & Schema.JsonObject,
      deltas: ReadonlyArray<Schema.Json>,
      last?: Schema.Json
    ) => {
      // The start of a tool call is content already, that of a text says nothing yet.
      const isFirst = index === 0
      const isSilent = content_block.type !== "tool_use"
      if (isFirst && !isSilent) push("preamble", { type: "ping" })
      push(isFirst && isSilent ? "preamble" : "block", { type: "content_block_start", index, content_block })
      if (isFirst && isSilent) push("preamble", { type: "ping" })
      for (const delta of deltas) push("part", { type: "content_block_delta", index, delta })
      if (last !== undefined) push("block", { type: "content_block_delta", index, delta: last })
      push("block", { type: "content_block_stop", index })
      index += 1
    }
    if (exchange.reasoning.length > 0) {
      block(
        { type: "thinking", thinking: "", signature: "" },
        exchange.reasoning.map((thinking) => ({ type: "thinking_delta", thinking })),
        { type: "signature_delta", signature: signatureOf(exchange) }
      )
    }
    const text = textTokens(exchange)
    if (text.length > 0) {
      block(
        { type: "text", text: "" },
        text.map((text) => ({ type: "text_delta", text }))
      )
    }
    for (const call of exchange.toolCalls) {
      block(
        { type: "tool_use", id: call.id, name: call.name, input: {} },
        pieces(call.params).map((partial_json) => ({ type: "input_json_delta", partial_json }))
      )
    }
    if (exchange.finish !== undefined) {
      push("finish", {
        type: "message_delta",
        delta: { stop_reason: stopReason(exchange), stop_sequence: null },
        usage: { output_tokens: exchange.usage.outputTokens }
      })
    }
    push("terminator", { type: "message_stop" })
    return frames
  },
  headers: (serial, nowMillis) => {
    const reset = DateTime.formatIso(DateTime.makeUnsafe(Math.ceil(nowMillis / 1000) * 1000 + 1000))
    return {
      "request-id": requestIdOf(serial),
      "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
      "anthropic-ratelimit-requests-limit": "4000",
      "anthropic-ratelimit-requests-remaining": String(Math.max(0, 4000 - serial)),
      "anthropic-ratelimit-requests-reset": reset,
      "anthropic-ratelimit-tokens-limit": "480000",
      "anthropic-ratelimit-tokens-remaining": "479000",
      "anthropic-ratelimit-tokens-reset": reset,
      "anthropic-ratelimit-input-tokens-limit": "400000",
      "anthropic-ratelimit-input-tokens-remaining": "399000",
      "anthropic-ratelimit-input-tokens-reset": reset,
      "anthropic-ratelimit-output-tokens-limit": "80000",
      "anthropic-ratelimit-output-tokens-remaining": "80000",
      "anthropic-ratelimit-output-tokens-reset": reset
    }
  },
  error: (status, description, serial) => {
    const known = errors.get(status) ?? (status >= 500 ? apiError : invalidRequest)
    return {
      type: "error",
      error: { type: known.type, message: description ?? known.message },
      request_id: requestIdOf(serial)
    }
  },
  errorFrame: (body) => event("error", body),
  overloaded: 529,
  malformed: `event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_de\n\n`
}

const idOf = (exchange: Exchange): string => `msg_${padded(exchange.serial)}`

const requestIdOf = (serial: number): string => `req_${padded(serial)}`

const signatureOf = (exchange: Exchange): string => `c2lnbmVk${padded(exchange.serial)}`

// Anthropic has no field for a refusal: it is text that stops for that reason.
const textTokens = (exchange: Exchange): ReadonlyArray<string> => [...exchange.text, ...exchange.refusal]

const finishes = new Map([
  ["stop", "end_turn"],
  ["length", "max_tokens"],
  ["content-filter", "refusal"],
  ["tool-calls", "tool_use"],
  ["pause", "pause_turn"]
])

const stopReason = ({ finish, refusal }: Exchange): string | null => {
  if (finish === undefined) return null
  return finish === "stop" && refusal.length > 0 ? "refusal" : (finishes.get(finish) ?? finish)
}

const inputUsage = ({ usage }: Exchange) => ({
  input_tokens: usage.inputTokens - (usage.cachedInputTokens ?? 0),
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: usage.cachedInputTokens ?? 0
})

interface KnownError {
  readonly type: string
  readonly message: string
}

const invalidRequest: KnownError = { type: "invalid_request_error", message: "Invalid request" }

const apiError: KnownError = { type: "api_error", message: "Internal server error" }

const errors: ReadonlyMap<number, KnownError> = new Map([
  [401, { type: "authentication_error", message: "invalid x-api-key" }],
  [402, { type: "billing_error", message: "There is an issue with your billing" }],
  [403, { type: "permission_error", message: "Your API key does not have permission to use this resource" }],
  [404, { type: "not_found_error", message: "model not found" }],
  [413, { type: "request_too_large", message: "Request exceeds the maximum allowed number of bytes" }],
  [429, { type: "rate_limit_error", message: "This request would exceed your organization's rate limit" }],
  [504, { type: "timeout_error", message: "Request timed out" }],
  [529, { type: "overloaded_error", message: "Overloaded" }]
])
