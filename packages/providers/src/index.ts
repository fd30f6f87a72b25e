/**
 * Providers that speak Anthropic's Messages API.
 *
 * @since 0.1.0
 */
export * as Anthropic from "./Anthropic.ts"

/**
 * Says what an answer that is not an answer means.
 *
 * @since 0.1.0
 */
export * as Classification from "./Classification.ts"

/**
 * Providers that speak OpenAI's chat completions.
 *
 * @since 0.1.0
 */
export * as OpenAiCompatible from "./OpenAiCompatible.ts"

/**
 * The providers that a configuration can name.
 *
 * @since 0.1.0
 */
export * as Providers from "./Providers.ts"
