import * as Classification from "../Classification.ts"
import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { constTrue } from "effect/Function"
import * as Headers from "effect/http/Headers"
import * as HttpBody from "effect/http/HttpBody"
import * as HttpClient from "effect/http/HttpClient"
import type * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type * as HttpClientResponse from "effect/http/HttpClientResponse"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import * as Url from "effect/http/Url"
import type { Body, Failure } from "./framing.ts"
import * as Json from "./json.ts"
import { Unwritable } from "./prompt.ts"
import * as Utf8 from "./utf8.ts"

/** How much of an answer is read before it is given up. */
export interface Bounds {
  readonly maxResponseBytes?: number | undefined
  readonly maxStreamBytes?: number | undefined
  readonly maxEventBytes?: number | undefined
}

/** Where requests go, with everything that is the same for all of them. */
export interface Endpoint {
  readonly provider: string
  readonly model: string
  readonly client: HttpClient.HttpClient.With<HttpClientError.HttpClientError, Scope.Scope>
  readonly requests: { readonly [K in keyof Paths]: HttpClientRequest.HttpClientRequest }
  readonly authorize: Authorize | undefined
  readonly secrets: ReadonlyArray<string>
  readonly secretHeaders: ReadonlyArray<string>
  readonly bounds: { readonly [K in keyof Bounds]-?: number }
}

/** Where whole and streamed answers are asked for. */
export interface Paths {
  readonly whole: string
  readonly streamed: string
}

/** Adds to a request with its body what is made anew for each. */
export type Authorize = (
  request: HttpClientRequest.HttpClientRequest,
  body: string
) => Effect.Effect<Authorized, ProviderError.ProviderError>

/** A request that may be sent, and what of it must not show up in errors and spans. */
export interface Authorized {
  readonly request: HttpClientRequest.HttpClientRequest
  readonly secrets: ReadonlyArray<string>
  readonly secretHeaders: ReadonlyArray<string>
}

/** Reads the JSON of a whole answer. */
export type Read = (
  json: unknown,
  reply: Reply
) => Result.Result<LlmResponse.LlmResponse["content"], ProviderError.ProviderError>

const mebibyte = 1024 * 1024

export const endpoint = (options: {
  readonly module: string
  readonly provider: string
  readonly model: string
  readonly client: HttpClient.HttpClient
  readonly baseUrl: string
  readonly paths: Paths
  readonly query?: { readonly [name: string]: string } | undefined
  readonly headers: { readonly [name: string]: string | Redacted.Redacted<string> }
  readonly authorize?: Authorize | undefined
  readonly bounds: Bounds
}): Endpoint => {
  // What is wrong with an address or a header is said without repeating it: a key may stand in it.
  const url = Url.fromString(options.baseUrl)
  // `localhost:8080` is an address, too: of the scheme `localhost`.
  if (Result.isFailure(url) || !/^https?:$/.test(url.success.protocol)) {
    throw new RangeError(`${options.module}.make: baseUrl must be an absolute URL that begins with http:// or https://`)
  }
  if (url.success.username !== "" || url.success.password !== "") {
    throw new RangeError(`${options.module}.make: baseUrl must not contain credentials; give an apiKey or headers`)
  }
  if (options.model === "") throw new RangeError(`${options.module}.make: model must not be empty`)
  const headers = Object.entries(options.headers)
  for (const [name, value] of headers) {
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) {
      throw new RangeError(`${options.module}.make: ${JSON.stringify(name)} cannot be the name of a header`)
    }
    if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(Redacted.isRedacted(value) ? Redacted.value(value) : value)) {
      throw new RangeError(
        `${options.module}.make: the value of the header ${name} has characters that no header can carry`
      )
    }
  }
  const request = (path: string) =>
    HttpClientRequest.post(address(options.baseUrl, path)).pipe(
      HttpClientRequest.setUrlParams(options.query ?? {}),
      HttpClientRequest.setHeaders(
        headers.map(([name, value]) => [name, Redacted.isRedacted(value) ? Redacted.value(value) : value] as const)
      )
    )
  return {
    provider: options.provider,
    model: options.model,
    // The request lives as long as the scope of the call: whoever leaves, in whatever way, takes the connection with them.
    client: HttpClient.withScope(options.client),
    requests: { whole: request(options.paths.whole), streamed: request(options.paths.streamed) },
    authorize: options.authorize,
    secrets: headers.flatMap(([, value]) => (Redacted.isRedacted(value) ? spellings(Redacted.value(value)) : [])),
    secretHeaders: headers.filter(([, value]) => Redacted.isRedacted(value)).map(([name]) => name.toLowerCase()),
    bounds: {
      maxResponseBytes: bound(options.module, "maxResponseBytes", options.bounds.maxResponseBytes, 16 * mebibyte),
      maxStreamBytes: bound(options.module, "maxStreamBytes", options.bounds.maxStreamBytes, 256 * mebibyte),
      maxEventBytes: bound(options.module, "maxEventBytes", options.bounds.maxEventBytes, 4 * mebibyte)
    }
  }
}

// An address may carry a query, such as the version that Azure asks for, and so may a path.
const address = (baseUrl: string, path: string): string => {
  const [base = "", query] = baseUrl.split("?", 2)
  const whole = base.replace(/\/+$/, "") + path
  return query === undefined ? whole : `${whole}${path.includes("?") ? "&" : "?"}${query}`
}

// A provider may echo the whole header value, or only the key inside of it. What is shorter is a placeholder such as `none`, and
// taking it out of an error would take the error's words apart.
export const spellings = (secret: string): ReadonlyArray<string> =>
  [secret, secret.replace(/^Bearer /, "")].filter((text) => text.length >= 8)

const bound = (module: string, name: string, value: number | undefined, otherwise: number): number => {
  if (value !== undefined && (!Number.isInteger(value) || value < 1)) {
    throw new RangeError(`${module}.make: ${name} must be an integer >= 1, got ${value}`)
  }
  return value ?? otherwise
}

/** An answer whose headers have arrived, and the errors that may still come out of it. */
export interface Reply {
  readonly response: HttpClientResponse.HttpClientResponse
  readonly provider: string
  readonly model: string
  /** Milliseconds since the epoch at which the headers arrived. */
  readonly now: number
  /** Says what an error inside the answer means. */
  readonly classify: (body: string) => ProviderError.ProviderError
  readonly fail: (reason: ProviderError.Reason, description: string) => ProviderError.APIError
  /** The error for a body that ended before its time, for the reason the transport gave. */
  readonly cut: (error: HttpClientError.HttpClientError | undefined) => ProviderError.ProviderError
}

/** Sends a request and waits for the headers of a successful answer. */
export const post = (
  endpoint: Endpoint,
  kind: keyof Paths,
  write: () => Json.JsonObject
): Effect.Effect<Reply, ProviderError.ProviderError, Scope.Scope> =>
  Clock.clockWith((clock) => {
    const started = clock.monotonicTimeNanosUnsafe()
    const elapsed = () => Duration.nanos(clock.monotonicTimeNanosUnsafe() - started)
    const send = ({ request, secretHeaders, secrets }: Authorized) =>
      Effect.mapError(traced(endpoint.client.execute(request), secretHeaders), (error) =>
        transportError(endpoint.provider, error, elapsed())
      ).pipe(
        Effect.flatMap((response) => {
          const reply = replyOf(endpoint, secrets, response, clock.currentTimeMillisUnsafe(), elapsed)
          return response.status >= 200 && response.status < 300
            ? Effect.succeed(reply)
            : Effect.flatMap(readError(response), (text) => Effect.fail(reply.classify(text)))
        })
      )
    return Effect.flatMap(written(endpoint, kind, write), send)
  })

/**
 * The span of a request, without its secrets. Where nobody traces there is none: it would be seen by nobody, and the provider be sent the
 * id of a trace that does not exist.
 */
const traced = <A, E, R>(
  request: Effect.Effect<A, E, R>,
  secretHeaders: ReadonlyArray<string>
): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) =>
    fiber.getRef(Tracer.Tracer) === Tracer.nativeTracer && fiber.cache.span === undefined
      ? Effect.provideService(request, HttpClient.TracerDisabledWhen, constTrue)
      : Effect.updateService(request, Headers.CurrentRedactedNames, (names) => [...names, ...secretHeaders])
  )

const written = (
  endpoint: Endpoint,
  kind: keyof Paths,
  write: () => Json.JsonObject
): Effect.Effect<Authorized, ProviderError.ProviderError> =>
  Effect.flatMap(
    Effect.try({ try: () => JSON.stringify(write()), catch: (error) => unwritable(endpoint.provider, error) }),
    (body) => {
      const request = HttpClientRequest.setBody(endpoint.requests[kind], HttpBody.text(body, "application/json"))
      const { authorize, secretHeaders, secrets } = endpoint
      if (authorize === undefined) return Effect.succeed({ request, secretHeaders, secrets })
      return Effect.map(authorize(request, body), (authorized) => ({
        request: authorized.request,
        secretHeaders: [...secretHeaders, ...authorized.secretHeaders],
        secrets: [...secrets, ...authorized.secrets]
      }))
    }
  )

// A schema without JSON Schema, or a parameter that is a cycle or a function: the request is wrong, not the provider.
const unwritable = (provider: string, error: unknown): ProviderError.APIError =>
  new ProviderError.APIError({
    provider,
    reason: "InvalidRequest",
    description: error instanceof Unwritable ? error.message : "The request cannot be written as JSON"
  })

const replyOf = (
  endpoint: Endpoint,
  secrets: ReadonlyArray<string>,
  response: HttpClientResponse.HttpClientResponse,
  now: number,
  elapsed: () => Duration.Duration
): Reply => {
  const { provider, model } = endpoint
  const redact = (text: string) => secrets.reduce((rest, secret) => rest.replaceAll(secret, "<redacted>"), text)
  const fail = (reason: ProviderError.Reason, description: string) => {
    const requestId = Classification.requestId(response.headers)
    return new ProviderError.APIError({
      provider,
      reason,
      description: Classification.describe(redact(description)),
      status: response.status,
      ...(requestId === undefined ? undefined : { requestId })
    })
  }
  return {
    response,
    provider,
    model,
    now,
    fail,
    classify: (body) =>
      Classification.classify({
        provider,
        status: response.status,
        headers: response.headers,
        body: redact(body),
        now,
        elapsed: elapsed()
      }),
    cut: (error) => {
      const code = error === undefined ? undefined : codeOf(error)
      return code !== undefined && silent.has(code)
        ? new ProviderError.Timeout({ provider, kind: "idle", after: elapsed() })
        : fail("StreamCut", `The connection ended before the answer did${code === undefined ? "" : ` (${code})`}`)
    }
  }
}

const unreachable = new Set(["UND_ERR_CONNECT_TIMEOUT", "ETIMEDOUT", "ESOCKETTIMEDOUT"])
const silent = new Set(["UND_ERR_HEADERS_TIMEOUT", "UND_ERR_BODY_TIMEOUT", "ETIMEDOUT", "ESOCKETTIMEDOUT"])

const transportError = (
  provider: string,
  error: HttpClientError.HttpClientError,
  after: Duration.Duration
): ProviderError.ProviderError => failureOfConnection(provider, error, after) ?? networkError(provider, undefined)

/** What the code in an error of the transport means, if there is one. */
export const failureOfConnection = (
  provider: string,
  error: unknown,
  after: Duration.Duration
): ProviderError.ProviderError | undefined => {
  const code = codeOf(error)
  if (code === undefined) return undefined
  if (unreachable.has(code)) return new ProviderError.Timeout({ provider, kind: "connect", after })
  return silent.has(code)
    ? new ProviderError.Timeout({ provider, kind: "attempt", after })
    : networkError(provider, code)
}

// Only the code: the message of a transport error may quote the header with the key in it.
const networkError = (provider: string, code: string | undefined): ProviderError.APIError =>
  new ProviderError.APIError({
    provider,
    reason: "Network",
    description: `The connection failed${code === undefined ? "" : ` (${code})`}`
  })

/** The code of the system or of the HTTP library, from wherever in the chain of causes it is. */
const codeOf = (error: unknown, depth = 0): string | undefined => {
  if (depth > 8 || typeof error !== "object" || error === null) return undefined
  const { code, cause, reason, errors } = error as Json.JsonObject
  if (typeof code === "string" && /^[A-Z][A-Z0-9_]{2,60}$/.test(code)) return code
  return codeOf(reason, depth + 1) ?? codeOf(cause, depth + 1) ?? codeOf(Json.array(errors)[0], depth + 1)
}

// An error is a few lines; who sends more gets the beginning read.
const maxErrorBytes = 64 * 1024

// The status counts even when the body that explains it is cut.
const readError = (response: HttpClientResponse.HttpClientResponse): Effect.Effect<string> =>
  Effect.catchCause(
    textOf(response, maxErrorBytes, Cause.done(), (_, text) => Effect.succeed(text)),
    () => Effect.succeed("")
  )

/** The bytes of a body, and `beyond` in place of what exceeds the bound. */
export const bodyOf = (
  response: HttpClientResponse.HttpClientResponse,
  maxBytes: number,
  beyond: Effect.Effect<never, ProviderError.ProviderError | Cause.Done>
): Effect.Effect<Body, never, Scope.Scope> =>
  Effect.flatMap(Effect.scope, (scope) =>
    // One fiber reads, so nothing has to keep two of them apart, as `Stream.toPull` would.
    Effect.map(Channel.toPullScoped(response.stream.channel, scope), (pull) => {
      let bytes = 0
      return Effect.flatMap(pull, (chunks) => {
        for (const chunk of chunks) bytes += chunk.byteLength
        return bytes > maxBytes ? beyond : Effect.succeed(chunks)
      })
    })
  )

/** Whether there is no body at all, which is as good as one without bytes. */
export const isEmpty = (error: Failure): boolean =>
  error._tag === "HttpClientError" && error.reason._tag === "EmptyBodyError"

/** The text of a body, or what to do about an error after some of it. */
const textOf = <E>(
  response: HttpClientResponse.HttpClientResponse,
  maxBytes: number,
  beyond: Effect.Effect<never, ProviderError.ProviderError | Cause.Done>,
  broken: (error: Failure, text: string) => Effect.Effect<string, E>
): Effect.Effect<string, E> =>
  Effect.scoped(
    Effect.flatMap(bodyOf(response, maxBytes, beyond), (body) => {
      const utf8 = Utf8.decoder()
      let text = ""
      const read = Effect.map(body, (chunks) => {
        for (const chunk of chunks) text += utf8.text(chunk)
      })
      return Effect.catch(Effect.forever(read, { disableYield: true }), (error) =>
        Cause.isDone(error) || isEmpty(error) ? Effect.succeed(text + utf8.rest()) : broken(error, text)
      )
    })
  )

/** Asks for a whole answer and reads the JSON in it. */
export const ask = (
  endpoint: Endpoint,
  write: () => Json.JsonObject,
  reading: () => Read
): Effect.Effect<
  { readonly content: LlmResponse.LlmResponse["content"]; readonly limits?: LlmResponse.Limits },
  ProviderError.ProviderError
> =>
  Effect.suspend(() => {
    const connection = Scope.makeUnsafe()
    return Effect.flatMap(post(endpoint, "whole", write), (reply) =>
      Effect.flatMap(readWhole(endpoint, reply), (text) =>
        Effect.map(Effect.fromResult(readDocument(text, reply, reading())), (content) => {
          const limits = Classification.limits(reply.response.headers, reply.now)
          return { content, ...(limits === undefined ? undefined : { limits }) }
        })
      )
    ).pipe(
      Scope.provide(connection),
      // An answer that was read leaves nothing to abort, and an abort is an exception with its stack.
      Effect.onExit((exit) => (Exit.isSuccess(exit) ? Effect.void : Scope.close(connection, exit)))
    )
  })

const readWhole = (endpoint: Endpoint, reply: Reply): Effect.Effect<string, ProviderError.ProviderError> =>
  textOf(
    reply.response,
    endpoint.bounds.maxResponseBytes,
    Effect.suspend(() => Effect.fail(tooLong(reply, endpoint.bounds.maxResponseBytes))),
    (error) => Effect.fail(ProviderError.isProviderError(error) ? error : reply.cut(error))
  )

export const tooLong = (reply: Reply, maxBytes: number): ProviderError.APIError =>
  reply.fail("InvalidResponse", `The answer is longer than ${maxBytes} bytes`)

/** Reads a JSON document that came with a successful status: an answer, an error after all, or the page of a proxy. */
export const readDocument = (
  text: string,
  reply: Reply,
  read: Read
): Result.Result<LlmResponse.LlmResponse["content"], ProviderError.ProviderError> => {
  const json = Json.parse(text)
  if (json._tag === "None") {
    return Result.fail(
      reply.fail(
        "InvalidResponse",
        text.trim() === "" ? "The answer is empty" : `The answer is not JSON: ${text.slice(0, 4000)}`
      )
    )
  }
  return isError(json.value) ? Result.fail(reply.classify(text)) : read(json.value, reply)
}

/** Whether a JSON value with a successful status is an error all the same. Google puts it into the list that its streams can be. */
export const isError = (json: unknown): boolean =>
  Array.isArray(json) ? isErrorObject(json.at(-1)) : isErrorObject(json)

const isErrorObject = (json: unknown): boolean =>
  Json.isObject(json) &&
  (Boolean(json["error"]) ||
    json["type"] === "error" ||
    json["object"] === "error" ||
    typeof json["__type"] === "string")
