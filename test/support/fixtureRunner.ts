import {
  Anthropic,
  Bedrock,
  type Connection,
  Gemini,
  OpenAiCompatible,
  OpenAiResponses
} from "@llm-resilience/providers"
import { Decision, LlmRequest, LlmResponse, type Provider, ProviderError } from "@llm-resilience/core"
import { Duration, Effect, Exit, Option, Redacted, Schema, Stream } from "effect"
import { FetchHttpClient, type HttpClient } from "effect/http"
import * as Http from "node:http"

// Replays recorded answers of providers over real HTTP through the adapters, and compares what comes out with what was expected.

const optional = Schema.optionalKey

const Usage = Schema.Struct({
  input: optional(Schema.NullOr(Schema.Int)),
  output: optional(Schema.NullOr(Schema.Int)),
  reasoning: optional(Schema.NullOr(Schema.Int)),
  cachedInput: optional(Schema.NullOr(Schema.Int))
})

const Expected = Schema.Struct({
  class: Schema.String,
  classAlternatives: optional(Schema.Array(Schema.String)),
  retryable: optional(Schema.Boolean),
  failover: optional(Schema.Union([Schema.Boolean, Schema.String])),
  phase: optional(Schema.String),
  text: optional(Schema.String),
  partialText: optional(Schema.String),
  finish: optional(Schema.NullOr(Schema.String)),
  usage: optional(Schema.NullOr(Usage)),
  toolCalls: optional(Schema.Array(Schema.Struct({ name: Schema.String, args: Schema.String }))),
  retryAfterMs: optional(Schema.Number),
  retryAfterMsAlternatives: optional(Schema.Array(Schema.Number))
})

/** One recorded answer, and what should become of it. */
export const Fixture = Schema.Struct({
  id: Schema.String,
  provider: Schema.String,
  flavour: optional(Schema.String),
  api: Schema.String,
  stream: optional(Schema.Boolean),
  model: optional(Schema.NullOr(Schema.String)),
  note: optional(Schema.String),
  response: Schema.Struct({
    status: Schema.Int,
    headers: Schema.Record(Schema.String, Schema.String),
    body: optional(Schema.String),
    bodyBase64: optional(Schema.String)
  }),
  expect: Expected
})

export type Fixture = typeof Fixture.Type

/** The ways in which the bytes of an answer arrive. */
export const deliveries = ["whole", "split", "slow"] as const

export type Delivery = (typeof deliveries)[number]

/** What came out of one fixture in one delivery. `differences` are about everything but the class. */
export interface Outcome {
  readonly fixture: Fixture
  readonly delivery: Delivery
  readonly class: string
  readonly agrees: boolean
  readonly differences: ReadonlyArray<string>
  readonly detail: string
}

/** Who speaks which protocol. */
export const adapters: {
  readonly [api: string]: (
    options: Connection.Options
  ) => Effect.Effect<Provider.Provider, never, HttpClient.HttpClient>
} = {
  "chat.completions": OpenAiCompatible.make,
  responses: OpenAiResponses.make,
  messages: Anthropic.make,
  converse: (options) => Bedrock.make({ ...options, region: "us-east-1" }),
  "converse-stream": (options) => Bedrock.make({ ...options, region: "us-east-1" }),
  generateContent: Gemini.make,
  streamGenerateContent: Gemini.make
}

/** Replays one fixture. */
export const replay = Effect.fnUntraced(function* (fixture: Fixture, delivery: Delivery) {
  const make = adapters[fixture.api]
  if (make === undefined) return unspoken(fixture, delivery)
  const baseUrl = yield* serve(fixture.response, delivery)
  const provider = yield* make({ model: fixture.model ?? "model", baseUrl, apiKey: Redacted.make("fixture") })
  const isStream = fixture.stream ?? /stream/i.test(fixture.api)
  const request = LlmRequest.make({ prompt: "Hi" })
  const parts: Array<LlmResponse.LlmStreamPart> = []
  const exit = yield* Effect.exit(
    isStream
      ? Effect.map(
          Stream.runForEach(provider.stream(request), (part) => Effect.sync(() => parts.push(part))),
          () => LlmResponse.make({ content: LlmResponse.collect(parts), served: LlmResponse.servedBy(provider) })
        )
      : provider.generate(request)
  )
  return outcomeOf(fixture, delivery, exit, parts)
}, Effect.provide(FetchHttpClient.layer))

// A fixture that nobody can replay is a difference like any other, and the rest is still replayed.
const unspoken = (fixture: Fixture, delivery: Delivery): Outcome => ({
  fixture,
  delivery,
  class: "none",
  agrees: false,
  differences: [],
  detail: `No adapter speaks ${fixture.api}`
})

const classes: { readonly [K in ProviderError.Kind]: string } = {
  Timeout: "timeout",
  RateLimited: "rate_limit",
  Overloaded: "overloaded",
  ServerError: "server_error",
  Network: "network",
  InvalidResponse: "malformed",
  StreamCut: "truncated",
  Authentication: "auth",
  PermissionDenied: "permission",
  QuotaExhausted: "quota_exhausted",
  ModelNotFound: "not_found",
  ContextLengthExceeded: "context_length",
  ContentPolicy: "content_policy",
  Refusal: "refusal",
  InvalidRequest: "invalid_request",
  Loop: "loop",
  EmptyOutput: "empty",
  TruncatedOutput: "truncated",
  SchemaMismatch: "schema"
}

const outcomeOf = (
  fixture: Fixture,
  delivery: Delivery,
  exit: Exit.Exit<LlmResponse.LlmResponse, Provider.Failure>,
  parts: ReadonlyArray<LlmResponse.LlmStreamPart>
): Outcome => {
  const { expect } = fixture
  // Whoever does not tell the filter's refusal from the model's has one class for both.
  const accepted = new Set(
    [expect.class, ...(expect.classAlternatives ?? [])].flatMap((name) =>
      name === "content_policy" ? [name, "refusal"] : [name]
    )
  )
  const end = (name: string, differences: ReadonlyArray<string>, detail: string): Outcome => ({
    fixture,
    delivery,
    class: name,
    agrees: accepted.has(name),
    differences,
    detail
  })
  if (Exit.isSuccess(exit))
    return end("success", differencesOfAnswer(expect, exit.value), exit.value.text.slice(0, 200))
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  if (!ProviderError.isProviderError(error)) return end("defect", [], String(exit.cause))
  const kind = ProviderError.kind(error)
  const detail = error._tag === "Timeout" ? error.kind : `${kind}: ${error.description ?? ""}`
  return end(classes[kind], differencesOfError(expect, error, parts), detail)
}

const finishes: { readonly [finish: string]: string } = {
  "tool-calls": "tool_calls",
  "content-filter": "content_filter"
}

const differencesOfAnswer = (expect: typeof Expected.Type, answer: LlmResponse.LlmResponse): ReadonlyArray<string> => {
  const { finishReason, toolCalls, usage } = answer
  const calls = toolCalls.map(({ name, params }) => ({ name, args: params }))
  return [
    ...differ("text", expect.text, answer.text),
    ...differ("finish", expect.finish, finishes[finishReason] ?? finishReason),
    ...differ("input tokens", expect.usage?.input, usage.inputTokens.total),
    ...differ("output tokens", expect.usage?.output, usage.outputTokens.total),
    ...differ("reasoning tokens", expect.usage?.reasoning, usage.outputTokens.reasoning),
    ...differ("cached tokens", expect.usage?.cachedInput, usage.inputTokens.cacheRead),
    ...differ(
      "tool calls",
      expect.toolCalls?.map(({ args, name }) => ({
        name,
        args: args === "" ? {} : Option.getOrElse(decodeJson(args), () => args)
      })),
      calls
    )
  ]
}

const differencesOfError = (
  expect: typeof Expected.Type,
  error: ProviderError.ProviderError,
  parts: ReadonlyArray<LlmResponse.LlmStreamPart>
): ReadonlyArray<string> => {
  const decision = Decision.of(Decision.defaults, error)
  const said = parts.reduce((text, part) => (part.type === "text-delta" ? text + part.delta : text), "")
  const advised = ProviderError.retryAfter(error)
  const millis = advised === undefined ? undefined : Math.round(Duration.toMillis(advised))
  const waits = [expect.retryAfterMs, ...(expect.retryAfterMsAlternatives ?? [])]
  // The provider's own word about a retry goes before the table.
  const retries = "shouldRetry" in error && error.shouldRetry === false ? false : decision.retry !== "no"
  const fallsOver = decision.fallOver === "yes" ? true : decision.fallOver === "no" ? false : "larger-context-only"
  // What stays open in the judgement (another class is accepted, or the choice is ours) is not held against the decision.
  const isOpen = expect.classAlternatives !== undefined || expect.failover === "policy-choice"
  return [
    ...differ("text before the error", expect.partialText, said),
    ...(expect.phase === "before-output" ? differ("text before the error", "", said) : []),
    ...(waits.includes(millis) ? [] : differ("retry after", expect.retryAfterMs, millis)),
    ...(isOpen ? [] : differ("retries", expect.retryable, retries)),
    ...(isOpen ? [] : differ("falls over", expect.failover, fallsOver))
  ]
}

const differ = (name: string, expected: unknown, found: unknown): ReadonlyArray<string> =>
  expected === undefined || expected === null || canonical(expected) === canonical(found)
    ? []
    : [`${name}: expected ${canonical(expected)}, got ${canonical(found)}`]

const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([left], [right]) => (left < right ? -1 : 1)))
      : inner
  )

const decodeJson = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Json))

// What belongs to the connection of the recording, and not to the answer.
const hopByHop = new Set(["content-length", "transfer-encoding", "content-encoding", "connection", "keep-alive"])

const serve = (response: Fixture["response"], delivery: Delivery) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<Http.Server>((resume) => {
        const bytes =
          response.bodyBase64 === undefined
            ? Buffer.from(response.body ?? "", "utf8")
            : Buffer.from(response.bodyBase64, "base64")
        const headers = Object.entries(response.headers).filter(([name]) => !hopByHop.has(name.toLowerCase()))
        const server = Http.createServer((incoming, outgoing) => {
          incoming.resume().on("end", () => {
            outgoing.writeHead(response.status, Object.fromEntries(headers))
            outgoing.flushHeaders()
            const write = (index: number): void => {
              const piece = pieces[index]
              if (piece === undefined) return void outgoing.end()
              outgoing.write(piece, () =>
                delivery === "slow" ? setTimeout(() => write(index + 1), 2) : setImmediate(() => write(index + 1))
              )
            }
            const pieces = cut(bytes, delivery)
            write(0)
          })
        })
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    ),
    (server) => {
      const address = server.address()
      return `http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}/v1`
    }
  )

// Odd sizes end in the middle of everything: events, lines, characters and checksums.
const cut = (bytes: Buffer, delivery: Delivery): ReadonlyArray<Buffer> => {
  const size =
    delivery === "whole" ? bytes.length : delivery === "split" ? 7 : Math.max(13, Math.ceil(bytes.length / 60))
  return Array.from({ length: Math.ceil(bytes.length / Math.max(1, size)) }, (_, index) =>
    bytes.subarray(index * size, (index + 1) * size)
  )
}

/** Agreement by provider and class, one line each. */
export const table = (outcomes: ReadonlyArray<Outcome>): ReadonlyArray<string> => {
  const rows = Map.groupBy(outcomes, ({ fixture }) => `${fixture.provider}\t${fixture.expect.class}`)
  const line = (cells: ReadonlyArray<string>) => cells.map((cell, index) => cell.padEnd(widths[index] ?? 0)).join("  ")
  const widths = [10, 18, 8, 12, 12]
  const counts = (some: ReadonlyArray<Outcome>) => [
    String(new Set(some.map(({ fixture }) => fixture.id)).size),
    `${some.filter(({ agrees }) => agrees).length}/${some.length}`,
    `${some.filter(({ agrees, differences }) => agrees && differences.length === 0).length}/${some.length}`
  ]
  return [
    line(["provider", "class", "fixtures", "class agrees", "all agrees"]),
    ...[...rows]
      .toSorted(([left], [right]) => (left < right ? -1 : 1))
      .map(([name, some]) => line([...name.split("\t"), ...counts(some)])),
    line(["all", "", ...counts(outcomes)])
  ]
}
