import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { event, padded, parsed } from "./wire.ts"
import type { Exchange, Fields, Frame, Wire } from "./wire.ts"

const Content = Schema.Struct({
  role: Schema.optional(Schema.Literals(["user", "model", "function"])),
  parts: Schema.Array(Schema.Struct({ text: Schema.optional(Schema.String) }))
})

const Request = Schema.Struct({
  contents: Schema.NonEmptyArray(Content),
  systemInstruction: Schema.optional(Content),
  generationConfig: Schema.optional(Schema.Struct({ maxOutputTokens: Schema.optional(Schema.Int) })),
  tools: Schema.optional(
    Schema.Array(
      Schema.Struct({ functionDeclarations: Schema.optional(Schema.Array(Schema.Struct({ name: Schema.String }))) })
    )
  )
})

const decode = Schema.decodeUnknownResult(Request)

const textOf = (content: typeof Content.Type | undefined): string =>
  (content?.parts ?? []).map((part) => part.text ?? "").join("")

const path = /\/models\/([^/]+):(generateContent|streamGenerateContent)$/

/** Google's Gemini. */
export const geminiWire: Wire = {
  protocol: "gemini",
  path,
  keyHeader: "x-goog-api-key",
  decode: (request) =>
    Result.mapBoth(decode(request.body), {
      onFailure: (error) => error.message,
      onSuccess: ({ contents, systemInstruction, tools }) => {
        const [, model = "", method] = path.exec(request.path) ?? []
        const messages = contents.map((content) => ({
          role: content.role === "model" ? "assistant" : "user",
          text: textOf(content)
        }))
        return {
          question: {
            protocol: "gemini",
            model: decodeURIComponent(model),
            stream: method === "streamGenerateContent",
            system: textOf(systemInstruction),
            messages,
            text: messages.findLast((message) => message.role === "user")?.text ?? "",
            tools: (tools ?? []).flatMap((tool) => (tool.functionDeclarations ?? []).map(({ name }) => name)),
            body: request.body
          },
          usageInStream: true
        }
      }
    }),
  whole: (exchange) =>
    chunk(
      exchange,
      [
        ...(exchange.reasoning.length > 0 ? [{ text: exchange.reasoning.join(""), thought: true }] : []),
        ...(said(exchange).length > 0 ? [{ text: said(exchange).join("") }] : []),
        ...calls(exchange)
      ],
      true
    ),
  // There is no preamble, and the finish reason travels with the last words: each chunk is a whole little answer.
  frames: (exchange) => {
    const parts: ReadonlyArray<Fields> = [
      ...exchange.reasoning.map((text) => ({ text, thought: true })),
      ...said(exchange).map((text) => ({ text })),
      ...calls(exchange)
    ]
    return [
      ...parts.map((part): Frame => ({ kind: "part", text: event(undefined, chunk(exchange, [part], false)) })),
      { kind: "finish", text: event(undefined, chunk(exchange, [{ text: "" }], true)) }
    ]
  },
  headers: () => ({ vary: "Origin, X-Origin, Referer", server: "scaffolding on HTTPServer2" }),
  error: (status, description) => {
    const known = errors.get(status) ?? (status >= 500 ? internal : invalidArgument)
    return { error: { code: status, message: description ?? known.message, status: known.status } }
  },
  errorFrame: (body) => event(undefined, body),
  overloaded: 503,
  malformed: `data: {"candidates":[{"content":{"parts":[{"te\n\n`
}

const said = (exchange: Exchange): ReadonlyArray<string> => [...exchange.text, ...exchange.refusal]

const calls = (exchange: Exchange): ReadonlyArray<Fields> =>
  exchange.toolCalls.map((call) => ({ functionCall: { name: call.name, args: parsed(call.params) } }))

const finishes = new Map([
  ["stop", "STOP"],
  ["length", "MAX_TOKENS"],
  ["content-filter", "SAFETY"],
  ["tool-calls", "STOP"]
])

const finishReason = ({ finish, refusal }: Exchange): string | undefined => {
  if (finish === undefined) return undefined
  return finish === "stop" && refusal.length > 0 ? "SAFETY" : (finishes.get(finish) ?? finish)
}

const chunk = (exchange: Exchange, parts: ReadonlyArray<Fields>, last: boolean): Fields => {
  const finish = last ? finishReason(exchange) : undefined
  const { cachedInputTokens, inputTokens, outputTokens } = exchange.usage
  return {
    candidates: [
      { content: { parts, role: "model" }, ...(finish === undefined ? {} : { finishReason: finish }), index: 0 }
    ],
    usageMetadata: {
      promptTokenCount: inputTokens,
      ...(last ? { candidatesTokenCount: outputTokens } : {}),
      totalTokenCount: inputTokens + (last ? outputTokens : 0),
      ...(cachedInputTokens === undefined ? {} : { cachedContentTokenCount: cachedInputTokens })
    },
    modelVersion: exchange.model,
    responseId: padded(exchange.serial)
  }
}

interface KnownError {
  readonly status: string
  readonly message: string
}

const invalidArgument: KnownError = {
  status: "INVALID_ARGUMENT",
  message: "Request contains an invalid argument."
}

const internal: KnownError = { status: "INTERNAL", message: "An internal error has occurred." }

const errors: ReadonlyMap<number, KnownError> = new Map([
  [401, { status: "UNAUTHENTICATED", message: "Request had invalid authentication credentials." }],
  [403, { status: "PERMISSION_DENIED", message: "The caller does not have permission" }],
  [404, { status: "NOT_FOUND", message: "The model was not found for this API version" }],
  [429, { status: "RESOURCE_EXHAUSTED", message: "Resource has been exhausted (e.g. check quota)." }],
  [503, { status: "UNAVAILABLE", message: "The model is overloaded. Please try again later." }],
  [504, { status: "DEADLINE_EXCEEDED", message: "The request did not finish in time." }]
])
