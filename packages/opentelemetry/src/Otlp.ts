/**
 * Sends metrics, spans and logs to an OTLP collector, for applications that have no OpenTelemetry SDK: `effect/observability` speaks the protocol by
 * itself.
 *
 * **Example** (Five lines)
 *
 * ```ts import.meta.vitest
 * import { LlmResilience } from "@llm-resilience/core"
 * import { Otlp } from "@llm-resilience/opentelemetry"
 * import { ScriptedProvider } from "@llm-resilience/testing"
 * import { Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 *
 * const chain = LlmResilience.layer({
 *   steps: [{ provider: ScriptedProvider.layer({ id: "primary", script: [ScriptedProvider.answer("Hello!")] }) }]
 * })
 * const main = Otlp.layer({ baseUrl: "http://localhost:4318", resource: { serviceName: "my-app" } }).pipe(
 *   Layer.provideMerge(chain),
 *   Layer.provide(FetchHttpClient.layer)
 * )
 *
 * Layer.isLayer(main) // => true
 * ```
 *
 * @since 0.1.0
 */
import type { LlmResilience } from "@llm-resilience/core/LlmResilience"
import type * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Exporters from "effect/observability/Otlp"
import type * as OtlpExporter from "effect/observability/OtlpExporter"
import * as OtlpSerialization from "effect/observability/OtlpSerialization"
import * as Telemetry from "./Telemetry.ts"

/**
 * Layer that counts, traces and logs what happens in `LlmResilience`, and sends it to a collector together with all else that the application counts,
 * traces and logs.
 *
 * **Details**
 *
 * Takes the options of `Otlp.layer` of `effect/observability` and of the parts. `encoding` is `json` by default.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Parameters<typeof Exporters.layer>[0] &
    Telemetry.Options & { readonly encoding?: "json" | "protobuf" | undefined }
): Layer.Layer<OtlpExporter.Flusher, never, LlmResilience | HttpClient.HttpClient> =>
  Telemetry.layer(options).pipe(
    Layer.provideMerge(Exporters.layer(options)),
    Layer.provide(options.encoding === "protobuf" ? OtlpSerialization.layerProtobuf : OtlpSerialization.layerJson)
  )
