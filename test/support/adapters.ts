import {
  Anthropic,
  Bedrock,
  type Connection,
  Gemini,
  OpenAiCompatible,
  OpenAiResponses
} from "@llm-resilience/providers"
import { Redacted } from "effect"

/** Signs with these where there is no key. */
export const credentials: Bedrock.Credentials = {
  accessKeyId: "AKIDEXAMPLE",
  secretAccessKey: Redacted.make("secret-access-key")
}

/** Every adapter that speaks over HTTP, by the name of its protocol. */
export const adapters = {
  openai: OpenAiCompatible.make,
  "openai-responses": OpenAiResponses.make,
  anthropic: Anthropic.make,
  bedrock: (options: Connection.Options) =>
    Bedrock.make({
      ...options,
      region: "us-east-1",
      credentials: options.apiKey === undefined ? credentials : undefined
    }),
  gemini: Gemini.make
}

export type Protocol = keyof typeof adapters

export const protocols = Object.keys(adapters) as ReadonlyArray<Protocol>
