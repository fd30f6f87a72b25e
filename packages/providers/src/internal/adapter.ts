import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as Provider from "@llm-resilience/core/Provider"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Redacted from "effect/Redacted"
import * as Catalogue from "../Catalogue.ts"
import type * as Connection from "../Connection.ts"
import * as Events from "./events.ts"
import { type Framing, sse } from "./framing.ts"
import type * as Json from "./json.ts"
import * as Translation from "./prompt.ts"
import * as Transport from "./transport.ts"

/** One protocol over HTTP: everything in which one adapter differs from another. */
export interface Protocol {
  /** The module whose options are checked, for the errors about them. */
  readonly module: string
  readonly id: string
  readonly baseUrl: string
  readonly paths: Transport.Paths
  readonly headers: { readonly [name: string]: string | Redacted.Redacted<string> }
  /** Adds what has to be made anew for each request: a signature, a token that expires. */
  readonly authorize?: Transport.Authorize | undefined
  readonly capabilities?: Provider.Capabilities | undefined
  readonly body: (request: LlmRequest.LlmRequest, options: Writing) => Json.JsonObject
  /** Asked for only after the body is written: a schema that cannot be written is an invalid request, not a defect. */
  readonly reading: (request: LlmRequest.LlmRequest) => {
    readonly read: Transport.Read
    readonly decoder: Events.Streaming["decoder"]
  }
  readonly framing?: Framing | undefined
}

/** What a request is written with, besides itself. `settings` are those of the request on top of the defaults of the provider. */
export interface Writing {
  readonly provider: string
  readonly model: string
  readonly settings: LlmRequest.Settings
  readonly stream: boolean
}

/** Makes the provider of a protocol. */
export const make = (
  protocol: Protocol,
  options: Connection.Options
): Effect.Effect<Provider.Provider, never, HttpClient.HttpClient> =>
  Effect.map(HttpClient.HttpClient, (client) => {
    const id = options.id ?? protocol.id
    const endpoint = Transport.endpoint({
      module: protocol.module,
      provider: id,
      model: options.model,
      client,
      baseUrl: options.baseUrl ?? protocol.baseUrl,
      paths: protocol.paths,
      query: options.query,
      headers: { ...protocol.headers, ...options.headers },
      authorize: protocol.authorize,
      bounds: options
    })
    const capabilities: Provider.Capabilities = {
      ...protocol.capabilities,
      ...Catalogue.find(options.model),
      ...options.capabilities
    }
    const body = (request: LlmRequest.LlmRequest, stream: boolean) => () =>
      protocol.body(request, {
        provider: id,
        model: options.model,
        settings: bounded(Translation.settingsOf(options.settings, request), capabilities.maxOutputTokens),
        stream
      })
    return Provider.make({
      id,
      model: options.model,
      capabilities,
      generate: (request) => Transport.ask(endpoint, body(request, false), () => protocol.reading(request).read),
      stream: (request) =>
        Events.listen(endpoint, body(request, true), () => ({
          framing: protocol.framing ?? sse,
          ...protocol.reading(request)
        }))
    })
  })

// "At most so many" is kept by a model that can only write fewer, and a number above its limit would be refused as invalid.
const bounded = (settings: LlmRequest.Settings, limit: number | undefined): LlmRequest.Settings =>
  limit === undefined || settings.maxOutputTokens === undefined || settings.maxOutputTokens <= limit
    ? settings
    : { ...settings, maxOutputTokens: limit }

/** The header with a key, as a bearer token or under a name of its own. */
export const credentials = (
  apiKey: Redacted.Redacted<string> | undefined,
  header: string
): { readonly [name: string]: Redacted.Redacted<string> } => {
  if (apiKey === undefined) return {}
  return header === "bearer"
    ? { authorization: Redacted.make(`Bearer ${Redacted.value(apiKey)}`) }
    : { [header]: apiKey }
}

/** The name under which a model is asked for JSON through a tool, in the characters that every provider allows. */
export const toolName = (objectName: string): string =>
  objectName.replace(/[^a-zA-Z0-9_-]/g, "_").slice(0, 64) || "answer"

export const answerToolDescription = "Gives the answer. Call it once, when the answer is complete."
