/**
 * Providers that speak Amazon Bedrock's Converse and ConverseStream: Claude, Nova, Llama, Mistral and whoever else Bedrock offers, in one
 * protocol.
 *
 * The adapter translates, and does nothing else. It sends one request per call, never a second one: retries, timeouts and fallbacks
 * are policies around it. It translates every failure into a `ProviderError` exactly once (see {@link Classification}), aborts the
 * request when the caller leaves, and bounds what it reads.
 *
 * **Details**
 *
 * - Requests are signed with Signature Version 4, or carry an API key of Bedrock as a bearer token.
 * - Streams are binary events with checksums. An exception inside of one is classified as any other error.
 * - JSON is asked for through a tool that the model has to call. A conversation with tool calls names their tools even when none may be
 *   called, because Converse insists.
 * - Reasoning goes back to Bedrock with its signature (`metadata.bedrock`). Reasoning of another model is left out.
 * - Files go as data, or by an address in S3. An image that is somewhere on the web is an `InvalidRequest`.
 * - A stream is complete with its stop reason; the usage follows it.
 * - An answer that a guardrail withheld is an `APIError` `ContentPolicy`; one that it rewrote is an answer with the finish reason
 *   `content-filter`.
 *
 * **Example** (Building a step with a key)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Bedrock } from "@llm-resilience/providers"
 *
 * const program = Bedrock.make({
 *   model: "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
 *   region: "us-east-1",
 *   apiKey: Redacted.make("secret")
 * })
 *
 * const provider = await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer))
 *
 * provider.id // => "bedrock"
 * provider.capabilities.price?.outputPerMillion // => 15
 * ```
 *
 * @since 0.1.0
 */
import * as Provider from "@llm-resilience/core/Provider"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Connection from "./Connection.ts"
import * as Adapter from "./internal/adapter.ts"
import { awsFraming } from "./internal/awsFraming.ts"
import { type Identity, signed } from "./internal/awsSigning.ts"
import * as Answer from "./internal/bedrockAnswer.ts"
import * as Request from "./internal/bedrockRequest.ts"
import * as Streamed from "./internal/bedrockStream.ts"
import { configured, type Configured } from "./internal/configured.ts"

/**
 * What requests are signed with.
 *
 * @category models
 * @since 0.1.0
 */
export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: Redacted.Redacted<string>
  readonly sessionToken?: Redacted.Redacted<string> | undefined
}

/**
 * How to reach Bedrock and its model.
 *
 * **Details**
 *
 * What all adapters share is in {@link Connection.Options}. Here:
 *
 * - `id` is `bedrock` by default. `model` is the id of a model, of an inference profile, or an ARN.
 * - `region` is that of the runtime. Default: `AWS_REGION`, else `AWS_DEFAULT_REGION`. `baseUrl` is
 *   `https://bedrock-runtime.REGION.amazonaws.com` by default.
 * - `apiKey` is an API key of Bedrock, sent as `Authorization: Bearer …`. Without one, requests are signed.
 * - `credentials` sign: fixed ones, or a function that is asked for each request, as those of `@aws-sdk/credential-providers` are.
 *
 * With neither, the usual variables are read through `Config`: `AWS_BEARER_TOKEN_BEDROCK`, else `AWS_ACCESS_KEY_ID`,
 * `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`. Where those are missing too, AWS's own chain is asked (profiles, single sign-on,
 * containers, instances), if the package `@aws-sdk/credential-provider-node` is installed. No credentials are an `APIError`
 * `Authentication` at the first call.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Connection.Options {
  readonly region?: string | undefined
  readonly credentials?: Credentials | (() => PromiseLike<Identity>) | undefined
}

/**
 * Creates a provider. An address that is none, a missing region, an empty model or a bound below one throws a `RangeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Provider.Provider, never, HttpClient.HttpClient> =>
  Effect.gen(function* () {
    const environment = yield* surroundings
    const region = options.region ?? environment.region
    if (region === undefined) {
      throw new RangeError("Bedrock.make: there is no region; give one, or set AWS_REGION or AWS_DEFAULT_REGION")
    }
    if (!/^[a-z]{2}[a-z0-9-]{1,40}$/.test(region)) {
      throw new RangeError(`Bedrock.make: region must be one of AWS, got ${JSON.stringify(region)}`)
    }
    const apiKey = options.apiKey ?? (options.credentials === undefined ? environment.apiKey : undefined)
    const credentials = options.credentials ?? environment.credentials
    const path = `/model/${encodeURIComponent(options.model)}`
    return yield* Adapter.make(
      {
        module: "Bedrock",
        id: "bedrock",
        baseUrl: `https://bedrock-runtime.${region}.amazonaws.com`,
        paths: { whole: `${path}/converse`, streamed: `${path}/converse-stream` },
        headers: Adapter.credentials(apiKey, "bearer"),
        ...(apiKey === undefined
          ? {
              authorize: signed({
                provider: options.id ?? "bedrock",
                region,
                service: "bedrock",
                identity: identityOf(credentials)
              })
            }
          : undefined),
        framing: awsFraming,
        // Claude goes on where an assistant message stops; of the other models it is not known.
        ...(/claude/.test(options.model) ? { capabilities: { prefill: true } } : undefined),
        body: Request.body,
        reading: (request) => {
          const answerTool = Request.answerTool(request)
          return {
            read: (json, reply) => Answer.read(json, reply, answerTool),
            decoder: (reply) => Streamed.decoder(reply, answerTool)
          }
        }
      },
      options
    )
  })

const optional = <A>(config: Config.Config<A>): Effect.Effect<A | undefined> =>
  // A variable that is set to nothing is as good as missing, and the chain goes on to the next place.
  Effect.map(Effect.option(config), Option.getOrUndefined)

const secret = (name: string) => Config.schema(Schema.Redacted(Schema.NonEmptyString), name)
const text = (name: string) => Config.schema(Schema.NonEmptyString, name)

const surroundings = Effect.gen(function* () {
  const [accessKeyId, secretAccessKey, sessionToken, apiKey, region, defaultRegion] = yield* Effect.all([
    optional(text("AWS_ACCESS_KEY_ID")),
    optional(secret("AWS_SECRET_ACCESS_KEY")),
    optional(secret("AWS_SESSION_TOKEN")),
    optional(secret("AWS_BEARER_TOKEN_BEDROCK")),
    optional(text("AWS_REGION")),
    optional(text("AWS_DEFAULT_REGION"))
  ])
  const credentials: Credentials | undefined =
    accessKeyId === undefined || secretAccessKey === undefined
      ? undefined
      : { accessKeyId, secretAccessKey, sessionToken }
  return { apiKey, credentials, region: region ?? defaultRegion }
})

const identityOf = (credentials: Options["credentials"]): (() => PromiseLike<Identity>) => {
  if (typeof credentials === "function") return credentials
  if (credentials === undefined) return defaultChain()
  const { accessKeyId, secretAccessKey, sessionToken } = credentials
  const identity = Promise.resolve({
    accessKeyId,
    secretAccessKey: Redacted.value(secretAccessKey),
    sessionToken: sessionToken === undefined ? undefined : Redacted.value(sessionToken)
  })
  return () => identity
}

// The chain keeps what has not expired, so it is made once; and only when somebody asks, because the package is heavy and optional.
const defaultChain = (): (() => PromiseLike<Identity>) => {
  let chain: PromiseLike<() => PromiseLike<Identity>> | undefined
  return () => {
    chain ??= import("@aws-sdk/credential-provider-node").then(({ defaultProvider }) => defaultProvider())
    return chain.then((provide) => provide())
  }
}

/**
 * Layer that provides a `Provider`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Provider.Provider, never, HttpClient.HttpClient> =>
  Layer.effect(Provider.Provider, make(options))

/**
 * Layer that provides a `Provider`, with any of its options read from the configuration.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Configured<Options>
): Layer.Layer<Provider.Provider, Config.ConfigError, HttpClient.HttpClient> =>
  Layer.effect(Provider.Provider, Effect.flatMap(configured(options), make))
