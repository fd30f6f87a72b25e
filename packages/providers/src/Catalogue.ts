import type * as Provider from "@llm-resilience/core/Provider"
export const find = (_model: string): Provider.Capabilities | undefined => undefined
