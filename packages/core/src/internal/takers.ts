import type { LlmRequest } from "../LlmRequest.ts"
import type { Provider } from "../Provider.ts"
import { exceeds } from "./promptSize.ts"

/** What a request needs and a step is known not to have. Unknown capabilities never exclude a step. */
export const lacks = (step: Provider, request: LlmRequest, tooLongFor: number | undefined): string | undefined => {
  const { contextWindow, files, images, jsonSchema, tools } = step.capabilities
  if (tooLongFor !== undefined && contextWindow !== undefined && contextWindow <= tooLongFor) {
    return `a context window of more than ${tooLongFor} tokens`
  }
  if (contextWindow !== undefined && exceeds(request.prompt, contextWindow)) {
    return `a context window of more than ${contextWindow} tokens`
  }
  if (tools === false && request.tools.length > 0) return "tools"
  if (jsonSchema === false && request.responseFormat.type === "json") return "JSON schema output"
  if (images === false && hasFile(request, (mediaType) => mediaType.startsWith("image/"))) return "images"
  if (files === false && hasFile(request, (mediaType) => !mediaType.startsWith("image/"))) return "files"
  return undefined
}

const hasFile = (request: LlmRequest, matches: (mediaType: string) => boolean): boolean =>
  request.prompt.content.some(
    (message) =>
      typeof message.content !== "string" &&
      message.content.some((part) => part.type === "file" && matches(part.mediaType))
  )

/** The first step from an index on that would take the request. */
export const nextTaker = (
  steps: ReadonlyArray<Provider>,
  from: number,
  request: LlmRequest,
  tooLongFor: number | undefined,
  now: number
): Provider | undefined =>
  steps.find(
    (step, index) =>
      index >= from && lacks(step, request, tooLongFor) === undefined && step.availability(request, now) === undefined
  )

/**
 * How many steps are left from an index on, or none when nobody among them would take the request: who would be skipped needs no share of
 * the time.
 */
export const takers = (
  steps: ReadonlyArray<Provider>,
  from: number,
  request: LlmRequest,
  tooLongFor: number | undefined,
  now: number
): number => (nextTaker(steps, from, request, tooLongFor, now) === undefined ? 0 : steps.length - from)
