/**
 * Hands metrics, spans and logs to an OpenTelemetry SDK, for applications that have one. Needs `@effect/opentelemetry` and the packages of the SDK, and
 * is therefore imported by its own path:
 *
 * ```ts
 * import * as Sdk from "@llm-resilience/opentelemetry/Sdk"
 *
 * const main = Sdk.layer(() => ({
 *   resource: { serviceName: "my-app" },
 *   spanProcessor: new BatchSpanProcessor(new OTLPTraceExporter()),
 *   metricReader: new PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter() })
 * })).pipe(Layer.provideMerge(chain))
 * ```
 *
 * @since 0.1.0
 */
import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import type * as Resource from "@effect/opentelemetry/Resource"
import type { LlmResilience } from "@llm-resilience/core/LlmResilience"
import type { LazyArg } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Telemetry from "./Telemetry.ts"

/**
 * Layer that counts, traces and logs what happens in `LlmResilience` through an OpenTelemetry SDK.
 *
 * **Details**
 *
 * `evaluate` gives the processors and readers, as for `NodeSdk.layer` of `@effect/opentelemetry`; signals without one stay off.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  evaluate: LazyArg<NodeSdk.Configuration>,
  options?: Telemetry.Options
): Layer.Layer<Resource.Resource, never, LlmResilience> =>
  Telemetry.layer(options).pipe(Layer.provideMerge(NodeSdk.layer(evaluate)))
