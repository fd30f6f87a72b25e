/** One token a word, with the space before it, so that the tokens joined are the text again. */
export const tokens = (text: string): ReadonlyArray<string> => text.match(/\s*\S+|\s+/gu) ?? []

/** The pieces in which the parameters of a tool call are streamed: never within a character. */
export const pieces = (params: string): ReadonlyArray<string> => params.match(/[^]{1,8}/gu) ?? []
