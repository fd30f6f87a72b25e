import type * as Response from "effect/ai/Response"
import * as Url from "effect/http/Url"
import * as Result from "effect/Result"
import * as Json from "./json.ts"

/** A page that an answer cites. An address that is none is left out: the part could not be decoded, and would take the answer with it. */
export const page = (id: string, url: unknown, title: unknown): ReadonlyArray<Response.UrlSourcePartEncoded> =>
  typeof url === "string" && Result.isSuccess(Url.fromString(url))
    ? [{ type: "source", sourceType: "url", id, url, title: Json.string(title) || url }]
    : []
