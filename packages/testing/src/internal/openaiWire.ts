import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { pieces } from "./tokens.ts"
import { padded } from "./wire.ts"
import type { Exchange, Frame, Wire } from "./wire.ts"

const Text = Schema.Union([
  Schema.String,
  Schema.Array(Schema.Struct({ type: Schema.String, text: Schema.optional(Schema.String) }))
])

const Request = Schema.Struct({
  model: Schema.NonEmptyString,
  messages: Schema.NonEmptyArray(
    Schema.Struct({
      role: Schema.Literals(["developer", "system", "user", "assistant", "tool", "function"]),
      content: Schema.optional(Schema.NullOr(Text))
    })
  ),
  stream: Schema.optional(Schema.NullOr(Schema.Boolean)),
  stream_options: Schema.optional(Schema.NullOr(Schema.Struct({ include_usage: Schema.optional(Schema.Boolean) }))),
  tools: Schema.optional(
    Schema.Array(
      Schema.Struct({
        type: Schema.String,
        function: Schema.optional(Schema.Struct({ name: Schema.String }))
      })
    )
  )
})

const decode = Schema.decodeUnknownResult(Request)

const textOf = (content: typeof Text.Type | null | undefined): string =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("")

/** OpenAI chat completions. */
export const openaiWire: Wire = {
  protocol: "openai",
  path: /\/chat\/completions$/,
  decode: ({ body }) =>
    Result.mapBoth(decode(body), {
      onFailure: (error) => error.message,
      onSuccess: (request) => {
        const messages = request.messages.map(({ content, role }) => ({ role, text: textOf(content) }))
        const isSystem = (message: { readonly role: string }) =>
          message.role === "system" || message.role === "developer"
        return {
          question: {
            protocol: "openai",
            model: request.model,
            stream: request.stream ?? false,
            system: messages
              .filter(isSystem)
              .map((message) => message.text)
              .join("\n"),
            messages: messages.filter((message) => !isSystem(message)),
            text: messages.findLast((message) => message.role === "user")?.text ?? "",
            tools: (request.tools ?? []).flatMap((tool) => (tool.function === undefined ? [] : [tool.function.name])),
            body
          },
          usageInStream: request.stream_options?.include_usage ?? false
        }
      }
    }),
  whole: (exchange) => ({
    id: idOf(exchange),
    object: "chat.completion",
    created: createdAt(exchange),
    model: exchange.model,
    choices: [
      {
        index: 0,
        message: {
          role: "assistant",
          content: exchange.text.length > 0 || exchange.toolCalls.length === 0 ? contentOf(exchange) : null,
          ...(exchange.reasoning.length > 0 ? { reasoning_content: exchange.reasoning.join("") } : {}),
          ...(exchange.toolCalls.length > 0
            ? {
                tool_calls: exchange.toolCalls.map((call) => ({
                  id: call.id,
                  type: "function",
                  function: { name: call.name, arguments: call.params }
                }))
              }
            : {}),
          refusal: exchange.refusal.length > 0 ? exchange.refusal.join("") : null,
          annotations: []
        },
        logprobs: null,
        finish_reason: finishReason(exchange)
      }
    ],
    usage: usage(exchange),
    service_tier: "default",
    system_fingerprint: fingerprint
  }),
  frames: (exchange) => {
    const hasCalls = exchange.toolCalls.length > 0
    const frames: Array<Frame> = [
      {
        kind: "preamble",
        text: choice(exchange, { role: "assistant", content: hasCalls ? null : "", refusal: null })
      }
    ]
    const parts = (tokens: ReadonlyArray<string>, delta: (token: string) => Schema.Json) => {
      for (const token of tokens) frames.push({ kind: "part", text: choice(exchange, delta(token)) })
    }
    parts(exchange.reasoning, (token) => ({ reasoning_content: token }))
    parts(exchange.text, (token) => ({ content: token }))
    parts(exchange.refusal, (token) => ({ refusal: token }))
    exchange.toolCalls.forEach((call, index) => {
      const started = { index, id: call.id, type: "function", function: { name: call.name, arguments: "" } }
      frames.push({ kind: "block", text: choice(exchange, { tool_calls: [started] }) })
      parts(pieces(call.params), (piece) => ({ tool_calls: [{ index, function: { arguments: piece } }] }))
    })
    if (exchange.finish !== undefined) {
      frames.push({ kind: "finish", text: choice(exchange, {}, finishReason(exchange)) })
    }
    if (exchange.asked.usageInStream) {
      frames.push({ kind: "usage", text: data({ ...chunk(exchange), choices: [], usage: usage(exchange) }) })
    }
    frames.push({ kind: "terminator", text: "data: [DONE]\n\n" })
    return frames
  },
  headers: (serial) => ({
    "x-request-id": `req_${padded(serial)}`,
    "openai-version": "2020-10-01",
    "openai-processing-ms": "12",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": String(Math.max(0, 10_000 - serial)),
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-tokens": "1999980",
    "x-ratelimit-reset-tokens": "0s"
  }),
  error: (status, description) => {
    const known = errors.get(status) ?? (status >= 500 ? serverError : invalidRequest)
    return {
      error: { message: description ?? known.message, type: known.type, param: null, code: known.code }
    }
  },
  errorFrame: (body) => `data: ${typeof body === "string" ? body : JSON.stringify(body)}\n\n`,
  overloaded: 503,
  malformed: `data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":\n\n`
}

const fingerprint = "fp_000000000a"

const idOf = (exchange: Exchange): string => `chatcmpl-${padded(exchange.serial)}`

const createdAt = (exchange: Exchange): number => Math.floor(exchange.nowMillis / 1000)

const contentOf = (exchange: Exchange): string | null =>
  exchange.refusal.length > 0 && exchange.text.length === 0 ? null : exchange.text.join("")

const finishes = new Map([
  ["stop", "stop"],
  ["length", "length"],
  ["content-filter", "content_filter"],
  ["tool-calls", "tool_calls"]
])

const finishReason = ({ finish }: Exchange): string | null =>
  finish === undefined ? null : (finishes.get(finish) ?? finish)

const usage = ({ usage }: Exchange): Schema.Json => ({
  prompt_tokens: usage.inputTokens,
  completion_tokens: usage.outputTokens,
  total_tokens: usage.inputTokens + usage.outputTokens,
  prompt_tokens_details: { cached_tokens: usage.cachedInputTokens ?? 0, audio_tokens: 0 },
  completion_tokens_details: {
    reasoning_tokens: 0,
    audio_tokens: 0,
    accepted_prediction_tokens: 0,
    rejected_prediction_tokens: 0
  }
})

const chunk = (exchange: Exchange) => ({
  id: idOf(exchange),
  object: "chat.completion.chunk",
  created: createdAt(exchange),
  model: exchange.model,
  service_tier: "default",
  system_fingerprint: fingerprint
})

const choice = (exchange: Exchange, delta: Schema.Json, finish_reason: string | null = null): string =>
  data({
    ...chunk(exchange),
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
    // With include_usage every chunk but the last says null, without it the field does not exist.
    ...(exchange.asked.usageInStream ? { usage: null } : {})
  })

const data = (json: Schema.Json): string => `data: ${JSON.stringify(json)}\n\n`

interface KnownError {
  readonly type: string
  readonly code: string | null
  readonly message: string
}

const invalidRequest: KnownError = { type: "invalid_request_error", code: null, message: "Invalid request." }

const serverError: KnownError = {
  type: "server_error",
  code: null,
  message: "The server had an error while processing your request. Sorry about that!"
}

const errors: ReadonlyMap<number, KnownError> = new Map([
  [401, { type: "invalid_request_error", code: "invalid_api_key", message: "Incorrect API key provided." }],
  [403, { type: "invalid_request_error", code: null, message: "You do not have access to this resource." }],
  [404, { type: "invalid_request_error", code: "model_not_found", message: "The model does not exist." }],
  [429, { type: "requests", code: "rate_limit_exceeded", message: "Rate limit reached for requests." }],
  [503, { type: "server_error", code: null, message: "The engine is currently overloaded, please try again later." }]
])
