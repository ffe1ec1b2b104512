"""Is a schedule worth it?"""
