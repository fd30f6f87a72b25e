/**
 * Alert rules, evaluated over what happened.
 *
 * @since 0.1.0
 */
export * as Alert from "./Alert.ts"
/**
 * What an upstream answers when nothing is wrong.
 *
 * @since 0.1.0
 */
export * as Answer from "./Answer.ts"
/**
 * What a scripted provider was asked, in words and as an assertion.
 *
 * @since 0.1.0
 */
export * as Asked from "./Asked.ts"
/**
 * Faults on purpose, around any provider, in tests and in production drills.
 *
 * @since 0.1.0
 */
export * as Chaos from "./Chaos.ts"
/**
 * A game day: an incident that is rehearsed on purpose.
 *
 * @since 0.1.0
 */
export * as Drill from "./Drill.ts"
/**
 * What a drill showed, as data, JSON and Markdown.
 *
 * @since 0.1.0
 */
export * as DrillReport from "./DrillReport.ts"
/**
 * Six drills that are ready to use.
 *
 * @since 0.1.0
 */
export * as Drills from "./Drills.ts"
/**
 * The ways in which an upstream fails.
 *
 * @since 0.1.0
 */
export * as Fault from "./Fault.ts"
/**
 * What users will see in a month with this chain, this traffic and these providers.
 *
 * @since 0.1.0
 */
export * as Forecast from "./Forecast.ts"
/**
 * A provider that follows a script and remembers its calls, for tests on any clock.
 *
 * @since 0.1.0
 */
export * as ScriptedProvider from "./ScriptedProvider.ts"
/**
 * A real HTTP server that speaks the protocols of OpenAI, Anthropic, Bedrock and Gemini and misbehaves on command.
 *
 * @since 0.1.0
 */
export * as Upstream from "./Upstream.ts"
/**
 * Searches for the moment that breaks the chain, from seed to seed.
 *
 * @since 0.1.0
 */
export * as Simulation from "./Simulation.ts"
/**
 * An event loop of its own: virtual time without waiting, deterministic from a seed.
 *
 * @since 0.1.0
 */
export * as VirtualTime from "./VirtualTime.ts"
