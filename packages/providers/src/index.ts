/**
 * Models of Vercel's AI SDK as providers.
 *
 * @since 0.1.0
 */
export * as AiSdk from "./AiSdk.ts"

/**
 * Providers that speak Anthropic's Messages API.
 *
 * @since 0.1.0
 */
export * as Anthropic from "./Anthropic.ts"

/**
 * Providers that speak Amazon Bedrock's Converse.
 *
 * @since 0.1.0
 */
export * as Bedrock from "./Bedrock.ts"

/**
 * What is known about models: their windows, their abilities and their prices.
 *
 * @since 0.1.0
 */
export * as Catalogue from "./Catalogue.ts"

/**
 * Says what an answer that is not an answer means.
 *
 * @since 0.1.0
 */
export * as Classification from "./Classification.ts"

/**
 * What every adapter that speaks over HTTP is configured with.
 *
 * @since 0.1.0
 */
export * as Connection from "./Connection.ts"

/**
 * Providers that speak Google's Gemini API.
 *
 * @since 0.1.0
 */
export * as Gemini from "./Gemini.ts"

/**
 * Providers that speak OpenAI's chat completions.
 *
 * @since 0.1.0
 */
export * as OpenAiCompatible from "./OpenAiCompatible.ts"

/**
 * Providers that speak OpenAI's Responses API.
 *
 * @since 0.1.0
 */
export * as OpenAiResponses from "./OpenAiResponses.ts"

/**
 * The providers that a configuration can name.
 *
 * @since 0.1.0
 */
export * as Providers from "./Providers.ts"
