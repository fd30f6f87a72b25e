import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Attempt from "../Attempt.ts"
import type { Settled } from "../DeferredQueue.ts"
import * as DeferredStore from "../DeferredStore.ts"
import * as LlmRequest from "../LlmRequest.ts"
import * as LlmResponse from "../LlmResponse.ts"
import * as Notice from "../Notice.ts"

const optional = Schema.optionalKey

// What is not written is refused by `unsupported`, or belongs to one call. A field of a request that is neither does not compile: a subject that
// was forgotten here would share a private answer.
type Written = Exclude<
  keyof LlmRequest.LlmRequest,
  | "tools"
  | "toolChoice"
  | "responseFormat"
  | "deadline"
  | "mayWait"
  | "attempts"
  | "id"
  | "allowance"
  | "grant"
  | "expiresAt"
  | "commitBy"
  | "stepsLeft"
  | "insists"
  | "lastResort"
>

const StoredRequest = Schema.fromJsonString(
  Schema.toCodecJson(
    Schema.Struct({
      prompt: Prompt.Prompt,
      settings: Schema.Struct({
        maxOutputTokens: optional(Schema.Number),
        temperature: optional(Schema.Number),
        topP: optional(Schema.Number),
        stop: optional(Schema.Array(Schema.String)),
        seed: optional(Schema.Number),
        providerOptions: optional(Schema.Record(Schema.String, Schema.Record(Schema.String, Schema.Json)))
      } satisfies Record<keyof LlmRequest.Settings, unknown>),
      scope: optional(Schema.String),
      subject: optional(Schema.String),
      mayCache: Schema.Boolean,
      cacheMatch: optional(Schema.Literals(["exact", "canonical", "similar"])),
      priority: optional(Schema.Literals(["critical", "normal", "batch"]))
    } satisfies Record<Written, unknown>)
  )
)

/** Writes a request that {@link unsupported} has nothing against. Fails when its prompt holds what is not JSON. */
export const encodeRequest = ({
  cacheMatch,
  mayCache,
  priority,
  prompt,
  scope,
  settings,
  subject
}: LlmRequest.LlmRequest) =>
  Schema.encodeEffect(StoredRequest)({
    ...defined({ scope, subject, cacheMatch, priority }),
    prompt,
    settings: defined(settings),
    mayCache
  })

/** Reads a request. It may not wait again: who works it off decides what comes next. */
export const decodeRequest = (text: string) =>
  Effect.map(Schema.decodeEffect(StoredRequest)(text), (stored) => LlmRequest.make({ ...stored, mayWait: false }))

const StoredResponse = Schema.fromJsonString(
  Schema.toCodecJson(
    Schema.Struct({
      // The encoded parts of effect/ai are plain data already; their schema would only lose the parts that a later version knows.
      content: Schema.Array(Schema.Record(Schema.String, Schema.Json)),
      served: Schema.Struct({
        provider: Schema.String,
        model: Schema.String,
        from: Schema.Literals(["provider", "cache"]),
        attempts: Schema.Array(Attempt.Attempt),
        contributors: optional(Schema.Array(Schema.Struct({ provider: Schema.String, model: Schema.String }))),
        degraded: optional(Schema.Literals(["smaller", "shorter"])),
        match: optional(Schema.Literals(["exact", "canonical", "similar"])),
        similarity: optional(Schema.Number),
        question: optional(Schema.String),
        age: optional(Schema.Duration),
        stale: optional(Schema.Boolean),
        notice: optional(Notice.Notice)
      } satisfies Record<keyof LlmResponse.Served, unknown>)
    })
  )
)

/** Writes an answer: what the model said and how it was served, without the limits of the provider at that moment. */
export const encodeResponse = ({ content, served }: LlmResponse.LlmResponse) =>
  Effect.suspend(() => Schema.encodeEffect(StoredResponse)({ content: plain(content), served: defined(served) }))

// Whatever is undefined in a part, at any depth, JSON leaves out; the schema would refuse it.
const plain = (content: ReadonlyArray<Response.PartEncoded>): ReadonlyArray<{ readonly [key: string]: Schema.Json }> =>
  JSON.parse(JSON.stringify(content))

/** Reads an answer. */
export const decodeResponse = (text: string) =>
  Effect.map(Schema.decodeEffect(StoredResponse)(text), ({ content, served }) =>
    LlmResponse.make({ content: content as unknown as ReadonlyArray<Response.PartEncoded>, served })
  )

/** Reads how an entry ended, if it did. */
export const settledOf = (row: DeferredStore.Row): Effect.Effect<Settled, DeferredStore.StoreError> | undefined => {
  const { attempts, note, result, state, ticket } = row
  switch (state) {
    case "queued":
    case "running":
      return undefined
    case "answered":
      return Effect.mapBoth(decodeResponse(result ?? ""), {
        onFailure: (cause) => new DeferredStore.StoreError({ operation: "decode", cause }),
        onSuccess: (response) => ({ _tag: "Answered", ticket, response })
      })
    case "expired":
      return Effect.succeed({ _tag: "Expired", ticket })
    case "cancelled":
      return Effect.succeed({ _tag: "Cancelled", ticket })
    case "dead":
      return Effect.succeed({ _tag: "Dead", ticket, reason: note ?? "unknown", attempts })
  }
}

/** What a request has that cannot be written down and read again as the same. */
export const unsupported = (request: LlmRequest.LlmRequest): "tools" | "json" | undefined =>
  request.tools.length > 0 ? "tools" : request.responseFormat.type === "json" ? "json" : undefined

type Defined<A> = { readonly [K in keyof A]: Exclude<A[K], undefined> }

// JSON has no undefined: what is undefined is left out.
const defined = <A extends object>(value: A): Defined<A> =>
  Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as Defined<A>
