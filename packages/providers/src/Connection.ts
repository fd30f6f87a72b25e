/**
 * What every adapter that speaks over HTTP is configured with, so that five of them are configured alike.
 *
 * @since 0.1.0
 */
import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as Provider from "@llm-resilience/core/Provider"
import type * as Redacted from "effect/Redacted"

/**
 * How to reach an API and its model.
 *
 * **Details**
 *
 * - `id` names the step in errors, events and configuration. Each adapter has a default.
 * - `baseUrl` is what comes before the path of the protocol. It may carry a query, but no credentials.
 * - `apiKey` is sent in the way of the protocol. Without a key none is sent.
 * - `headers` are sent with every request; give secrets as `Redacted`, so that they are kept out of errors and spans. `query` is
 *   added to the address (Azure's `api-version`).
 * - `capabilities` say what the model can do. What they leave out comes from the {@link Catalogue}, as far as it knows the model.
 * - `settings` hold where a request says nothing.
 * - An answer longer than `maxResponseBytes` (default 16 MiB), a stream longer than `maxStreamBytes` (256 MiB) or an event longer than
 *   `maxEventBytes` (4 MiB) is an `APIError` `InvalidResponse`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly id?: string | undefined
  readonly model: string
  readonly apiKey?: Redacted.Redacted<string> | undefined
  readonly baseUrl?: string | undefined
  readonly headers?: { readonly [name: string]: string | Redacted.Redacted<string> } | undefined
  readonly query?: { readonly [name: string]: string } | undefined
  readonly capabilities?: Provider.Capabilities | undefined
  readonly settings?: LlmRequest.Settings | undefined
  readonly maxResponseBytes?: number | undefined
  readonly maxStreamBytes?: number | undefined
  readonly maxEventBytes?: number | undefined
}
